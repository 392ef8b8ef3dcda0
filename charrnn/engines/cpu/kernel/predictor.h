/* Backward-adaptive linear prediction of samples. charrnn/data/predictor.py is the reference, to the last bit.
 *
 * Sums of products of whole numbers below 2^53 are exact in double precision, in any order and with or without fused
 * operations, so they may be reordered here. The recursion is not exact: it repeats the reference's operations. */

typedef double V(register) __attribute__((vector_size(V(REGISTER)), aligned(8)));

/* Compute r[k] = sum over m of y[m] * y[m - k] for k up to `order`. y is preceded by zeros, as many as the lags need. */
static void V(autocorrelate)(const double *y, int32_t length, int32_t order, double *r)
{
    enum { WIDTH = sizeof(V(register)) / sizeof(double) };
    for (int32_t lag = 0; lag <= order; lag += LAGS) {
        V(register) sums[LAGS] = {{0}};
        for (int32_t m = 0; m < length; m += WIDTH) {
            V(register) x = *(const V(register) *)(y + m);
#pragma GCC unroll 8
            for (int k = 0; k < LAGS; k++)
                sums[k] += x * *(const V(register) *)(y + m - lag - k);
        }
        for (int k = 0; k < LAGS && lag + k <= order; k++) {
            r[lag + k] = 0;
            for (int i = 0; i < WIDTH; i++)
                r[lag + k] += sums[k][i];
        }
    }
}

/* Compute coefficients a[0 ... order - 1] from r[0 ... order], which it overwrites; return the energy of the error. */
static double V(schur)(double *restrict r, double *restrict u, double *restrict a, double *restrict reversed,
                       int32_t order)
{
    double error = r[0];
    for (int32_t j = 0; j < order; j++)
        u[j] = r[j + 1];
    for (int32_t m = 0, left = order; left; m++, left--) {
        double k = u[0] / r[0];
        for (int32_t j = 0; j < m; j++)
            reversed[j] = a[m - 1 - j];
        for (int32_t j = 0; j < m; j++)
            a[j] = a[j] - k * reversed[j];
        a[m] = k;
        error = r[0] - k * u[0];
        for (int32_t j = 0; j < left - 1; j++) {
            double forward = u[j + 1] - k * r[j + 1];
            r[j] = r[j] - k * u[j];
            u[j] = forward;
        }
    }
    return error;
}

/* Compute a predictor's coefficients, the newest sample's last, from the samples before `end`. Return the standard
 * deviation of its errors. */
static float V(solve)(const LinearPredictor *p, const int8_t *end, PredictorMemory *memory, double *coefficients)
{
    const int8_t *x = end - p->length;
    double *y = memory->windowed + MAX_ORDER + LAGS, *a = memory->a;
    for (int32_t m = 0; m < p->length; m++)
        y[m] = p->window[m] * x[m];
    V(autocorrelate)(y, p->length, p->order, memory->r);
    memory->r[0] = memory->r[0] * (1 + p->white_noise) + p->noise_floor;
    double error = V(schur)(memory->r, memory->u, a, memory->reversed, p->order);
    const double limit = LARGEST * RESOLUTION;
    for (int32_t j = 0; j < MAX_ORDER; j++) {
        double scaled = j < p->order ? rint(a[j] * p->bandwidths[j] * RESOLUTION) : 0;
        scaled = scaled < -limit ? -limit : scaled > limit ? limit : scaled;
        coefficients[MAX_ORDER - 1 - j] = scaled / RESOLUTION;
    }
    return (float)sqrt(error / p->power);
}

/* Return the prediction of the sample at `end` from those before it. */
INLINE float V(predict_sample)(const double *coefficients, int32_t order, const int8_t *end)
{
    typedef int8_t bytes __attribute__((vector_size(EIGHT), aligned(1)));
    eight sums = {0};
    for (int32_t j = MAX_ORDER - (order + EIGHT - 1) / EIGHT * EIGHT; j < MAX_ORDER; j += EIGHT)
        sums += *(const eight *)(coefficients + j) * __builtin_convertvector(*(const bytes *)(end - MAX_ORDER + j), eight);
    double sum = 0;
    for (int i = 0; i < EIGHT; i++)
        sum += sums[i];
    return (float)(sum < -128 ? -128 : sum > 127 ? 127 : sum);
}

/* Set the coefficients of a forecast from the samples before `end`. */
INLINE void V(adapt)(Forecast *forecast, const LinearPredictor *p, const int8_t *end, PredictorMemory *memory)
{
    forecast->scale = V(solve)(p, end, memory, forecast->coefficients);
}

/* Predict the last `steps` of each row's samples and the next one; charrnn_predict has the arguments. */
static void V(predict)(const Predictors *all, int64_t rows, int64_t steps, const int8_t *samples, const int64_t *phase,
                       float *predictions, float *scales)
{
    PredictorMemory memory = {.windowed = {0}};
    Forecast forecast;
    for (int64_t row = 0; row < rows; row++, samples += all->history + steps)
        for (int32_t k = 0; k < all->count; k++) {
            const LinearPredictor *p = all->predictor + k;
            const int8_t *first = samples + all->history;
            V(adapt)(&forecast, p, first - phase[row], &memory);
            for (int64_t t = 0; t <= steps; t++) {
                if (t && (phase[row] + t) % HOP == 0)
                    V(adapt)(&forecast, p, first + t, &memory);
                int64_t at = (row * (steps + 1) + t) * all->count + k;
                predictions[at] = V(predict_sample)(forecast.coefficients, p->order, first + t);
                scales[at] = forecast.scale;
            }
        }
}
