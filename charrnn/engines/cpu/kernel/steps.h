/* The loop over steps and layers. */

/* Return the output of layer l as the next matrix reads it, after all threads have computed their units. */
static const Vectors *V(layer_output)(Thread *t, int l)
{
    const Network *network = t->shared->network;
    const Layer *layer = network->layer + l;
    const float *h = t->shared->work->h[l];
    int64_t streams = t->shared->work->streams;
    int own = layer->recurrent.format, next = l + 1 < network->layers ? layer[1].input.format : network->output.format;
    V(convert)(&t->h[l], h, streams, layer->outputs, own);
    if (!layer->norm_size && (own <= BF16) == (next <= BF16))
        return &t->h[l];
    if (layer->norm_size) {
        V(normalise)(layer, h, streams, t->normed);
        h = t->normed;
    }
    V(convert)(&t->x, h, streams, layer->outputs, next);
    return &t->x;
}

/* Return the embeddings of the streams' symbols, for networks without a table. */
static const Vectors *V(embed)(Thread *t, int64_t step)
{
    const Network *network = t->shared->network;
    const Work *work = t->shared->work;
    int32_t size = network->embedding_size;
    for (int64_t s = 0; s < work->streams; s++)
        memcpy(t->normed + s * size, network->embedding + V(symbol)(work, s, step) * size, sizeof(float) * (size_t)size);
    V(convert)(&t->x, t->normed, work->streams, size, network->layer[0].input.format);
    return &t->x;
}

/* Copy the last layer's h of all streams to y. */
static void V(store_output)(const Shared *shared, int64_t step)
{
    const Work *work = shared->work;
    int last = shared->network->layers - 1;
    int64_t size = shared->network->layer[last].outputs;
    for (int64_t s = 0; s < work->streams; s++)
        memcpy(work->y + (s * work->steps + step) * size, work->h[last] + s * size, sizeof(float) * (size_t)size);
}

/* Run all steps as one of the threads.
 *
 * A layer's recurrent product can be computed when it is needed, or one step earlier, as soon as its state is complete.
 * Every second step computes it for itself and, after the barrier, for the next step, too. The weights of this second
 * product come from the core's own cache, and the next step reads none. */
static void V(run)(Thread *t)
{
    const Network *network = t->shared->network;
    const Work *work = t->shared->work;
    int depth = network->layers, early = 0; /* early: this step computes the next one's recurrent products */
    for (int l = 0; l < depth; l++)
        V(convert)(&t->h[l], work->h[l], work->streams, network->layer[l].outputs, network->layer[l].recurrent.format);
    if (network->history)
        V(start_samples)(t);
    barrier(t);
    for (int64_t step = 0; step < work->steps; step++) {
        int needed = !early;
        early = needed && step + 1 < work->steps;
        const Vectors *x = network->table ? NULL : V(embed)(t, step);
        if (network->history) {
            V(convert)(&t->x, t->shared->numbers, work->streams, network->numbers.inputs, network->numbers.format);
            V(product)(t, &network->numbers, &t->x, t->shared->input);
        }
        for (int l = 0; l < depth; l++) {
            const Layer *layer = network->layer + l;
            if (x)
                V(product)(t, &layer->input, x, t->shared->input);
            if (needed)
                V(product)(t, &layer->recurrent, &t->h[l], t->shared->recurrent[l]);
            const Matrix *next = l + 1 < depth ? &layer[1].input : &network->output;
            V(start_prefetch)(t, needed ? &layer->recurrent : next);
            V(layer_step)(t, l, step);
            t->prefetch = (Prefetch){0};
            if (layer->cell == LSTMP) {
                barrier(t);
                V(convert)(&t->x, t->shared->hidden, work->streams, layer->units, layer->projection.format);
                V(product)(t, &layer->projection, &t->x, work->h[l]);
            }
            barrier(t);
            x = V(layer_output)(t, l);
            if (early) {
                V(start_prefetch)(t, next);
                V(product)(t, &layer->recurrent, &t->h[l], t->shared->recurrent[l]);
                t->prefetch = (Prefetch){0};
            }
        }
        if (work->y && t->index == 0)
            V(store_output)(t->shared, step);
        if (!work->forced || work->scores) {
            V(product)(t, &network->output, x, t->shared->logits);
            if (network->predictors)
                V(product)(t, &network->correction, x, t->shared->correction);
            barrier(t);
            for (int64_t s = t->index; s < work->streams; s += t->shared->threads)
                V(next_symbol)(t->shared, s, step);
        }
        if (network->history && step + 1 < work->steps)
            for (int64_t s = t->index; s < work->streams; s += t->shared->threads)
                V(read_sample)(t, s, step + 1);
        barrier(t);
    }
}
