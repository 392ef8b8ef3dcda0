/* Sampling or scoring of a stream's next symbol. */

/* Add the bias to a stream's logits; return the largest. */
INLINE float V(add_output_bias)(const Shared *shared, float *logits)
{
    V(values) largest = (V(values)){0} - 3.4e38f;
    for (int64_t i = 0; i < rows_of(&shared->network->output); i += V(FLOATS)) {
        V(values) x = V(load_values)(logits + i) + V(load_values)(shared->network->output_bias + i);
        V(store_values)(logits + i, x);
        largest = V(max)(x, largest);
    }
    return V(max_of_lanes)(largest);
}

/* Replace logits by exp((logits - largest) * factor); return their sum. */
INLINE double V(exponentials)(float *logits, int64_t size, float largest, float factor)
{
    doubles sums = {0};
    for (int64_t i = 0; i < size; i += LANES) {
        for (int64_t at = i; at < i + LANES; at += V(FLOATS))
            V(store_values)(logits + at, V(exp)((V(load_values)(logits + at) - largest) * factor));
        sums += __builtin_convertvector(*(const floats *)(logits + i), doubles);
    }
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return sum;
}

/* Sample a stream's symbol by inverse CDF, as charrnn.engines.eager.choose_symbols does, or score a forced one. */
static void V(next_symbol)(const Shared *shared, int64_t s, int64_t step)
{
    const Work *work = shared->work;
    int64_t padded = rows_of(&shared->network->output), vocab = shared->network->vocab, id = 0;
    int64_t at = s * work->steps + step;
    float *logits = shared->logits + s * padded, largest = V(add_output_bias)(shared, logits);
    if (shared->network->predictors)
        largest = V(add_logistic)(shared, s, logits);
    if (work->forced) {
        double logit = (double)logits[work->forced[at]] - largest;
        work->scores[at] = logit - log(V(exponentials)(logits, padded, largest, 1));
        return;
    }
    double temperature = work->temperatures[s];
    if (temperature <= 0) {
        while (id < vocab - 1 && logits[id] != largest)
            id++;
    } else {
        float factor = temperature < 1e-30 ? 1e30f : (float)(1 / temperature);
        double total = V(exponentials)(logits, padded, largest, factor);
        double border = work->u[step * work->streams + s] * total, cumulated = logits[0];
        while (id < vocab - 1 && !(cumulated > border))
            cumulated += logits[++id];
    }
    work->last[s] = work->ids[at] = id;
}
