/* Samples as numbers: what a network of sound reads besides the last symbol, and the distribution that it outputs.
 *
 * charrnn/models/samples.py is the reference. */

#define SAMPLE_SCALE (1.0f / 16) /* of samples that are inputs */
#define STEP_VARIANCE 0.25f      /* in steps squared, added to an error's variance */
#define QUADRATIC 0.05f          /* factor of the quadratic term of light tails */

INLINE float V(limited)(float x, float limit) { return x < -limit ? -limit : x > limit ? limit : x; }

/* Return the standard deviation of the first predictor's errors, with that of rounding. */
INLINE float V(deviation)(const Forecast *forecast)
{
    return sqrtf(forecast->scale * forecast->scale + STEP_VARIANCE);
}

/* Return log(x) for a positive, finite x by the series of 2 artanh((m - 1) / (m + 1)), x = m 2^e, m in [0.7, 1.4].
 * The C library's results differ between systems. */
static float V(log)(float x)
{
    int e;
    double m = frexp(x, &e);
    if (m < 0.70710678118654752)
        m *= 2, e--;
    double s = (m - 1) / (m + 1), square = s * s, y = 1.0 / 15;
    for (int k = 13; k > 0; k -= 2)
        y = y * square + 1.0 / k;
    return (float)(2 * s * y + e * 0.69314718055994531);
}

/* Append the symbol that a stream reads at a step to its samples; compute the numbers that it reads with it, and
 * predict the next sample. */
static void V(read_sample)(Thread *t, int64_t s, int64_t step)
{
    const Network *network = t->shared->network;
    const Work *work = t->shared->work;
    const Predictors *all = network->predictors;
    int8_t *at = work->samples + s * (network->history + work->steps) + network->history + step;
    float *numbers = t->shared->numbers + s * network->numbers.inputs;
    *at = (int8_t)(V(symbol)(work, s, step) - 128);
    for (int32_t k = 0; k < network->context; k++)
        *numbers++ = at[k - network->context] * SAMPLE_SCALE;
    if (!all)
        return;
    Forecast *forecast = t->shared->forecast + s * all->count;
    int32_t count = all->count;
    for (int32_t k = 0; k < count; k++) {
        float error = *at - forecast[k].value;
        if ((work->phase[s] + step + 1) % all->predictor[k].hop == 0)
            V(adapt)(forecast + k, all->predictor + k, at + 1, t->memory);
        forecast[k].value = V(predict_sample)(forecast[k].coefficients, all->predictor[k].order, at + 1);
        float deviation = V(deviation)(forecast);
        numbers[k] = forecast[k].value * SAMPLE_SCALE;
        numbers[count + k] = V(limited)((forecast[k].value - *at) / (4 * deviation), 4);
        numbers[2 * count + k] = V(limited)(error / deviation, 4);
        numbers[3 * count + k] = V(log)(forecast[k].scale + 0.1f);
    }
}

/* Prepare this thread's streams for the first step. */
static void V(start_samples)(Thread *t)
{
    const Network *network = t->shared->network;
    const Work *work = t->shared->work;
    const Predictors *all = network->predictors;
    for (int64_t s = t->index; s < work->streams; s += t->shared->threads) {
        const int8_t *first = work->samples + s * (network->history + work->steps) + network->history;
        for (int32_t k = 0; all && k < all->count; k++) {
            Forecast *forecast = t->shared->forecast + s * all->count + k;
            V(adapt)(forecast, all->predictor + k, first - work->phase[s] % all->predictor[k].hop, t->memory);
            forecast->value = V(predict_sample)(forecast->coefficients, all->predictor[k].order, first);
        }
        V(read_sample)(t, s, 0);
    }
}

/* Add the log-density of the distribution around a stream's predictions to its logits; return the largest. */
static float V(add_logistic)(const Shared *shared, int64_t s, float *logits)
{
    const Network *network = shared->network;
    const Forecast *forecast = shared->forecast + s * network->predictors->count;
    float correction[LANES], deviation = V(deviation)(forecast);
    for (int i = 0; i < LANES; i++)
        correction[i] = shared->correction[s * LANES + i] + network->correction_bias[i];
    float mean = forecast->value + 0.5f * correction[0] * deviation;
    for (int32_t k = 1; k < network->predictors->count; k++)
        mean += 0.3f * correction[1 + k] * (forecast[k].value - forecast->value);
    float inverse = 2 / deviation * V(exp)((floats){0} - V(limited)(0.5f * correction[1], 4))[0];
    float quadratic = 0;
    if (network->light_tails)
        quadratic = QUADRATIC * V(exp)((floats){0} + V(limited)(correction[1 + network->predictors->count], 4))[0];
    floats largest = (floats){0} - 3.4e38f, value;
    for (int lane = 0; lane < LANES; lane++)
        value[lane] = (float)lane - 128 - mean;
    for (int32_t i = 0; i < network->vocab; i += LANES, value += (float)LANES) {
        floats z = value * inverse, magnitude = V(select)(z < 0.0f, -z, z);
        floats x = *(floats *)(logits + i) - magnitude - 2.0f * V(log1p)(V(exp)(-magnitude)) - quadratic * z * z;
        *(floats *)(logits + i) = x;
        largest = V(select)(x > largest, x, largest);
    }
    return V(max_of_lanes)(largest);
}
