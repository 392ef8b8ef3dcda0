/* One step of each cell for the units of one register, of a layer, and of layer normalisation.
 *
 * `input` is W x + b and `recurrent` is U h of the gates, in the order of torch's layers. `*` is elementwise.
 * charrnn/models/cells.py is the reference.
 */

/* LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000), gates i, f, g, o:
 *
 *     i = sigmoid(W_i x + b_i + U_i h)      f = sigmoid(W_f x + b_f + U_f h)
 *     g = tanh(W_g x + b_g + U_g h)         o = sigmoid(W_o x + b_o + U_o h)
 *     c' = f * c + i * g
 *     h' = o * tanh(c')
 *
 * This computes c' and returns o; h' follows in a second loop, as short chains of dependent operations overlap better
 * than long ones. In an LSTMP (Sak, Senior and Beaufays 2014) the recurrent and output vector is r' = R h'; see
 * steps.h. */
INLINE V(values) V(lstm_update_cell)(const V(values) *input, const V(values) *recurrent, float *c)
{
    V(values) i = V(sigmoid)(input[0] + recurrent[0]), f = V(sigmoid)(input[1] + recurrent[1]);
    V(values) g = V(tanh)(input[2] + recurrent[2]), o = V(sigmoid)(input[3] + recurrent[3]);
    V(store_values)(c, f * V(load_values)(c) + i * g);
    return o;
}

/* GRU (Cho et al. 2014, in torch's form), gates r, z, n; d is the recurrent bias, part of `recurrent`:
 *
 *     r = sigmoid(W_r x + b_r + U_r h + d_r)      z = sigmoid(W_z x + b_z + U_z h + d_z)
 *     n = tanh(W_n x + b_n + r * (U_n h + d_n))
 *     h' = (1 - z) * n + z * h */
INLINE V(values) V(gru_step)(const V(values) *input, const V(values) *recurrent, V(values) h)
{
    V(values) r = V(sigmoid)(input[0] + recurrent[0]), z = V(sigmoid)(input[1] + recurrent[1]);
    V(values) n = V(tanh)(input[2] + r * recurrent[2]);
    return (1.0f - z) * n + z * h;
}

/* RNN (Elman 1990): h' = tanh(W x + b + U h). */
INLINE V(values) V(rnn_step)(const V(values) *input, const V(values) *recurrent)
{
    return V(tanh)(input[0] + recurrent[0]);
}

/* Return the symbol that a stream reads at a step. */
INLINE int64_t V(symbol)(const Work *work, int64_t s, int64_t step)
{
    return work->forced && step ? work->forced[s * work->steps + step - 1] : work->last[s];
}

/* Update this thread's units of layer l of all streams, from the products with input and state. */
static void V(layer_step)(Thread *t, int l, int64_t step)
{
    const Shared *shared = t->shared;
    const Work *work = shared->work;
    const Layer *layer = shared->network->layer + l;
    const Matrix *m = &layer->recurrent;
    const float *table = l ? NULL : shared->network->table;
    int adds = !table || shared->network->history; /* the product is the input, or is added to it */
    int cell = layer->cell, gates = cell == GRU ? 3 : cell == RNN ? 1 : 4;
    int64_t rows = rows_of(m), tiles = m->vectors / m->width;
    int64_t from = V(share)(t, tiles, 0) * m->width / gates, to = V(share)(t, tiles, 1) * m->width / gates;
    for (int64_t s = 0; s < work->streams; s++) {
        const float *inputs = table ? table + V(symbol)(work, s, step) * rows : layer->bias;
        const float *products = shared->input + s * rows;
        const float *recurrents = shared->recurrent[l] + s * rows;
        float *hs = (cell == LSTMP ? shared->hidden : work->h[l]) + s * layer->units, *cs = work->c[l] + s * layer->units;
        for (int64_t block = from; block < to; block++) {
            prefetch(&t->prefetch, PREFETCH_IN_CELL);
            for (int part = 0; part < LANES; part += V(FLOATS)) {
                V(values) input[MAX_WIDTH], recurrent[MAX_WIDTH];
                for (int g = 0; g < gates; g++) {
                    int64_t row = (block * gates + g) * LANES + part;
                    input[g] = V(load_values)(inputs + row);
                    if (adds)
                        input[g] += V(load_values)(products + row);
                    recurrent[g] = V(load_values)(recurrents + row);
                    if (cell == GRU)
                        recurrent[g] += V(load_values)(layer->recurrent_bias + row);
                }
                int64_t unit = block * LANES + part;
                float *h = hs + unit;
                if (cell == GRU)
                    V(store_values)(h, V(gru_step)(input, recurrent, V(load_values)(h)));
                else if (cell == RNN)
                    V(store_values)(h, V(rnn_step)(input, recurrent));
                else
                    V(store_values)(h, V(lstm_update_cell)(input, recurrent, cs + unit)); /* o, until the loop below */
            }
        }
        if (cell == LSTM || cell == LSTMP)
            for (int64_t unit = from * LANES; unit < to * LANES; unit += V(FLOATS))
                V(store_values)(hs + unit, V(load_values)(hs + unit) * V(tanh)(V(load_values)(cs + unit)));
    }
}

/* Layer normalisation (Ba, Kiros and Hinton 2016) of x (streams, outputs), whose first `norm_size` outputs count:
 *
 *     y = (x - mean(x)) / sqrt(var(x) + epsilon) * gain + offset */
static void V(normalise)(const Layer *layer, const float *x, int64_t streams, float *y)
{
    int32_t size = layer->outputs;
    float n = (float)layer->norm_size, padding = (float)(size - layer->norm_size);
    for (int64_t s = 0; s < streams; s++, x += size, y += size) {
        floats sum = {0}, squares = {0};
        for (int32_t k = 0; k < size; k += LANES)
            sum += *(const floats *)(x + k);
        float mean = V(sum_of_lanes)(sum) / n;
        for (int32_t k = 0; k < size; k += LANES) {
            floats d = *(const floats *)(x + k) - mean;
            squares += d * d;
        }
        float variance = (V(sum_of_lanes)(squares) - padding * mean * mean) / n; /* x is 0 in the padding */
        float inverse = 1 / sqrtf((variance > 0 ? variance : 0) + layer->epsilon);
        for (int32_t k = 0; k < size; k += LANES)
            *(floats *)(y + k) = (*(const floats *)(x + k) - mean) * inverse * *(const floats *)(layer->gain + k) +
                                 *(const floats *)(layer->offset + k);
    }
}
