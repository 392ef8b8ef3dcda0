/* Samples as numbers: what a network of sound reads besides the last symbol, and the distribution that it outputs.
 *
 * charrnn/models/samples.py is the reference. */

#define SAMPLE_SCALE (1.0f / 16) /* of samples that are inputs */
#define TYPICAL_ERROR 1.5f       /* of predictions, in steps; differences and the output's scale are relative to it */
#define QUADRATIC 0.05f          /* factor of the output's quadratic term before training */

INLINE float V(limited)(float x, float limit) { return x < -limit ? -limit : x > limit ? limit : x; }

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
            V(solve)(all->predictor + k, at + 1, t->memory, forecast[k].coefficients);
        forecast[k].value = V(predict_sample)(forecast[k].coefficients, all->predictor[k].order, at + 1);
        numbers[k] = forecast[k].value * SAMPLE_SCALE;
        numbers[count + k] = V(limited)((forecast[k].value - *at) / (4 * TYPICAL_ERROR), 4);
        numbers[2 * count + k] = V(limited)(error / TYPICAL_ERROR, 4);
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
            const LinearPredictor *p = all->predictor + k;
            V(solve)(p, first - work->phase[s] % p->hop, t->memory, forecast->coefficients);
            forecast->value = V(predict_sample)(forecast->coefficients, p->order, first);
        }
        V(read_sample)(t, s, 0);
    }
}

/* Add the log-density of the distribution around a stream's predictions to its logits; return the largest. */
static float V(add_logistic)(const Shared *shared, int64_t s, float *logits)
{
    const Network *network = shared->network;
    const Forecast *forecast = shared->forecast + s * network->predictors->count;
    float correction[LANES];
    for (int i = 0; i < LANES; i++)
        correction[i] = shared->correction[s * LANES + i] + network->correction_bias[i];
    float mean = forecast->value + 0.5f * TYPICAL_ERROR * correction[0];
    for (int32_t k = 1; k < network->predictors->count; k++)
        mean += 0.3f * correction[1 + k] * (forecast[k].value - forecast->value);
    float inverse = 2 / TYPICAL_ERROR * V(exp)((V(values)){0} - V(limited)(0.5f * correction[1], 4))[0];
    float quadratic = QUADRATIC * V(exp)((V(values)){0} + V(limited)(correction[1 + network->predictors->count], 4))[0];
    V(values) largest = (V(values)){0} - 3.4e38f, value[V(PARTS)];
    for (int lane = 0; lane < LANES; lane++)
        value[lane / V(FLOATS)][lane % V(FLOATS)] = (float)lane - 128 - mean;
    for (int32_t i = 0; i < network->vocab; i += LANES)
        for (int part = 0; part < V(PARTS); part++) {
            float *logit = logits + i + part * V(FLOATS);
            V(values) z = value[part] * inverse, size = V(abs)(z);
            V(values) x = V(load_values)(logit) - size - 2.0f * V(log1p)(V(exp)(-size)) - quadratic * z * z;
            V(store_values)(logit, x);
            largest = V(max)(x, largest);
            value[part] += (float)LANES;
        }
    return V(max_of_lanes)(largest);
}
