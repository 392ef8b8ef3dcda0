/* Backward-adaptive linear prediction of samples. charrnn/data/predictor.py is the reference, to the last bit.
 *
 * Sums of products of whole numbers are exact in any order, so they may be reordered here. The recursion is not exact:
 * it repeats the reference's operations. */

typedef int16_t V(shorts) __attribute__((vector_size(V(REGISTER)), aligned(2)));
typedef int64_t V(totals) __attribute__((vector_size(2 * V(REGISTER))));

/* Add to each 32-bit sum the products of two pairs of numbers. */
INLINE V(integers) V(add_pairs)(V(integers) sum, V(shorts) x, V(shorts) y)
{
#if defined(WITH_AVX512)
    return (V(integers))_mm512_dpwssd_epi32((__m512i)sum, (__m512i)x, (__m512i)y);
#elif defined(WITH_AVXVNNI)
    return (V(integers))_mm256_dpwssd_avx_epi32((__m256i)sum, (__m256i)x, (__m256i)y);
#elif defined(WITH_AVX2)
    return sum + (V(integers))_mm256_madd_epi16((__m256i)x, (__m256i)y);
#elif defined(__wasm__)
    return sum + (V(integers))wasm_i32x4_dot_i16x8((v128_t)x, (v128_t)y);
#else
    for (int i = 0; i < V(REGISTER) / 4; i++)
        sum[i] += x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1];
    return sum;
#endif
}

/* Compute r[k] = sum over m of y[m] * y[m - k] for k up to `order`, for numbers of up to 128 `peak`. Before y are as many
 * zeros as the lags need, and after its length up to a multiple of 32. */
static void V(autocorrelate)(const int16_t *y, int32_t length, int32_t order, int32_t peak, double *r)
{
    enum { WIDTH = sizeof(V(shorts)) / sizeof(int16_t) };
    const int64_t pair = 2 * (int64_t)(128 * peak) * (128 * peak);
    const int32_t block = (int32_t)(INT32_MAX / pair) * WIDTH; /* samples whose products fit in 32 bits */
    for (int32_t lag = 0; lag <= order; lag += LAGS) {
        V(totals) totals[LAGS] = {{0}};
        for (int32_t start = 0; start < length; start += block) {
            V(integers) sums[LAGS] = {{0}};
            for (int32_t m = start; m < length && m < start + block; m += WIDTH) {
                V(shorts) x = *(const V(shorts) *)(y + m);
#pragma GCC unroll 8
                for (int k = 0; k < LAGS; k++)
                    sums[k] = V(add_pairs)(sums[k], x, *(const V(shorts) *)(y + m - lag - k));
            }
            for (int k = 0; k < LAGS; k++)
                totals[k] += __builtin_convertvector(sums[k], V(totals));
        }
        for (int k = 0; k < LAGS && lag + k <= order; k++) {
            int64_t total = 0;
            for (int i = 0; i < V(REGISTER) / 4; i++)
                total += totals[k][i];
            r[lag + k] = (double)total;
        }
    }
}

/* Compute coefficients a[0 ... order - 1] from r[0 ... order], which it overwrites. */
static void V(schur)(double *restrict r, double *restrict u, double *restrict a, double *restrict reversed,
                       int32_t order)
{
    for (int32_t j = 0; j < order; j++)
        u[j] = r[j + 1];
    for (int32_t m = 0, left = order; left; m++, left--) {
        double k = u[0] / r[0];
        for (int32_t j = 0; j < m; j++)
            reversed[j] = a[m - 1 - j];
        for (int32_t j = 0; j < m; j++)
            a[j] = a[j] - k * reversed[j];
        a[m] = k;
        for (int32_t j = 0; j < left - 1; j++) {
            double forward = u[j + 1] - k * r[j + 1];
            r[j] = r[j] - k * u[j];
            u[j] = forward;
        }
    }
}

/* Compute a predictor's coefficients, the newest sample's last, from the samples before `end`. */
static void V(solve)(const LinearPredictor *p, const int8_t *end, PredictorMemory *memory, double *coefficients)
{
    const int8_t *x = end - p->length;
    int16_t *y = memory->windowed + MAX_ORDER + LAGS;
    double *a = memory->a;
    for (int32_t m = 0; m < p->length; m++)
        y[m] = (int16_t)(p->window[m] * x[m]);
    for (int32_t m = p->length; m % 32; m++)
        y[m] = 0;
    V(autocorrelate)(y, p->length, p->order, p->peak, memory->r);
    memory->r[0] = memory->r[0] * (1 + p->white_noise) + p->noise_floor;
    V(schur)(memory->r, memory->u, a, memory->reversed, p->order);
    const double limit = LARGEST * RESOLUTION;
    for (int32_t j = 0; j < MAX_ORDER; j++) {
        double scaled = j < p->order ? rint(a[j] * RESOLUTION) : 0;
        scaled = scaled < -limit ? -limit : scaled > limit ? limit : scaled;
        coefficients[MAX_ORDER - 1 - j] = scaled / RESOLUTION;
    }
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

/* Predict the last `steps` of each row's samples and the next one; charrnn_predict has the arguments. */
static void V(predict)(const Predictors *all, int64_t rows, int64_t steps, const int8_t *samples, const int64_t *phase,
                       float *predictions)
{
    PredictorMemory memory = {.windowed = {0}};
    double coefficients[MAX_ORDER];
    for (int64_t row = 0; row < rows; row++, samples += all->history + steps)
        for (int32_t k = 0; k < all->count; k++) {
            const LinearPredictor *p = all->predictor + k;
            const int8_t *first = samples + all->history;
            V(solve)(p, first - phase[row] % p->hop, &memory, coefficients);
            for (int64_t t = 0; t <= steps; t++) {
                if (t && (phase[row] + t) % p->hop == 0)
                    V(solve)(p, first + t, &memory, coefficients);
                int64_t at = (row * (steps + 1) + t) * all->count + k;
                predictions[at] = V(predict_sample)(coefficients, p->order, first + t);
            }
        }
}
