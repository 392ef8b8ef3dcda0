/* Check of the kernel: networks of random weights in every variant that this processor can run, in every cell and format,
 * on 1 to 3 threads.
 *
 * Prints a checksum per network and ends with 1 if a variant differs. tests/engines/test_cpu_kernel.py compares the
 * output between compilers and processors. Sanitizers look for invalid reads and writes (make sanitize).
 */

#include "../../charrnn/engines/cpu/kernel/kernel.c"

#include <stdio.h>

enum { STREAMS = 21, STEPS = 9, DEPTH = 2, VOCAB = 21, CONTEXT = 3, ORDER = 9, WINDOW = 40, HOP = 8, HISTORY = WINDOW + HOP };
enum { EMBEDDING, TABLE, SAMPLES }; /* what the first layer reads */

static uint32_t seed;

/* Return a number from -1 to 1 with 24 bits. */
static float number(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(int32_t)(seed >> 8) / 8388608.0f - 1.0f;
}

static float *numbers(int64_t count, float scale)
{
    float *made = aligned_alloc(CACHE_LINE, (size_t)((count * 4 + CACHE_LINE) / CACHE_LINE * CACHE_LINE));
    for (int64_t i = 0; i < count; i++)
        made[i] = number() * scale;
    return made;
}

static Matrix matrix(int vectors, int width, int inputs, int format)
{
    Matrix m = {.vectors = vectors, .width = width, .inputs = inputs, .format = format};
    float *rows = numbers(rows_of(&m) * inputs, 0.3f);
    uint8_t *weights = calloc((size_t)charrnn_size(&m), 1);
    float *scale = calloc((size_t)rows_of(&m), sizeof *scale);
    if (charrnn_pack(&m, rows, weights, scale))
        exit(2);
    free(rows);
    m.weights = weights;
    m.scale = scale;
    return m;
}

static void drop(Matrix *m)
{
    free((void *)m->weights);
    free((void *)m->scale);
}

/* Return a checksum of the symbols, in order, and of the state. */
static uint64_t outcome(int variant, const Network *network, int threads, int forced)
{
    float *h[DEPTH], *c[DEPTH], u[STEPS * STREAMS];
    int64_t last[STREAMS], ids[STREAMS * STEPS] = {0};
    double scores[STREAMS * STEPS], temperatures[STREAMS];
    static int8_t samples[STREAMS * (HISTORY + STEPS)];
    int64_t phase[STREAMS];
    uint64_t sum = 0;
    seed = 7;
    for (int i = 0; i < STREAMS * (HISTORY + STEPS); i++)
        samples[i] = (int8_t)(100 * number());
    for (int i = 0; i < STREAMS; i++)
        phase[i] = i % HOP;
    for (int i = 0; i < STEPS * STREAMS; i++) {
        u[i] = number() / 2 + 0.5f;
        ids[i] = i * 13 % VOCAB;
    }
    for (int i = 0; i < STREAMS; i++)
        last[i] = i, temperatures[i] = 0.9;
    for (int l = 0; l < DEPTH; l++) {
        h[l] = calloc(STREAMS * (size_t)network->layer[l].outputs, sizeof(float));
        c[l] = calloc(STREAMS * (size_t)network->layer[l].units, sizeof(float));
    }
    Work work = {.streams = STREAMS, .steps = STEPS, .h = h, .c = c, .last = last, .temperatures = temperatures};
    work.samples = samples, work.phase = phase;
    if (forced)
        work.forced = ids, work.scores = scores;
    else
        work.u = u, work.ids = ids;
    int32_t outputs = network->layer[DEPTH - 1].outputs;
    work.y = calloc((size_t)outputs * STREAMS * STEPS, sizeof(float));
    if (charrnn_run(variant, network, &work, threads))
        exit(2);
    for (int s = 0; s < STREAMS; s++) { /* the last y is the final h, and the first one differs */
        const float *left = h[DEPTH - 1] + s * outputs, *y = work.y + (int64_t)s * STEPS * outputs;
        if (memcmp(y + (STEPS - 1) * outputs, left, sizeof(float) * (size_t)outputs) ||
            !memcmp(y, left, sizeof(float) * (size_t)outputs))
            exit(3);
    }
    free(work.y);
    for (int i = 0; i < STREAMS * STEPS; i++)
        sum = sum * 31 + (uint64_t)ids[i] + (forced ? (uint64_t)(-1e6 * scores[i] + 0.5) : 0);
    for (int l = 0; l < DEPTH; l++) {
        for (int i = 0; i < STREAMS * network->layer[l].outputs; i++) {
            uint32_t bits;
            memcpy(&bits, h[l] + i, sizeof bits);
            sum = sum * 31 + bits;
        }
        free(h[l]);
        free(c[l]);
    }
    return sum;
}

static int check(int cell, int format, int reads)
{
    int gates = cell == GRU ? 3 : cell == RNN ? 1 : 4, width = cell == RNN ? 4 : gates, failed = 0;
    int units = cell == RNN ? 64 : 48, outputs = cell == LSTMP ? 64 : units, size = 16, rows = units * gates;
    Layer layer[DEPTH] = {0};
    seed = 1;
    float *embedding = numbers(VOCAB * size, 1), *products = numbers((int64_t)VOCAB * rows, 1);
    float *bias = numbers(rows, 1), *gain = numbers(outputs, 1), *offset = numbers(outputs, 1);
    Network network = {.vocab = VOCAB, .layers = DEPTH, .embedding_size = size, .embedding = embedding, .layer = layer};
    int16_t window[WINDOW];
    for (int i = 0; i < WINDOW; i++)
        window[i] = i < WINDOW - 4 ? 100 : 20;
    LinearPredictor predictor[2] = {{ORDER, WINDOW, HOP / 2, 100, window, 1e-5, 2000},
                                    {ORDER - 5, WINDOW - 8, HOP, 255, window + 8, 1e-3, 2000}};
    Predictors predictors = {2, HISTORY, predictor};
    if (reads != EMBEDDING)
        network.table = products;
    if (reads == SAMPLES) {
        network.context = CONTEXT, network.history = HISTORY, network.predictors = &predictors;
        network.numbers = matrix(rows / LANES, width, 16, format <= BF16 ? format : BF16);
        network.correction = matrix(1, 1, outputs, FP32);
        network.correction_bias = numbers(LANES, 1);
    }
    for (int l = 0; l < DEPTH; l++) {
        layer[l] = (Layer){.cell = cell, .units = units, .outputs = outputs, .norm_size = reads != EMBEDDING ? outputs - 3 : 0,
                           .epsilon = 1e-5f, .bias = bias, .recurrent_bias = bias, .gain = gain, .offset = offset};
        layer[l].input = matrix(rows / LANES, width, l ? outputs : size, format);
        layer[l].recurrent = matrix(rows / LANES, width, outputs, format);
        if (cell == LSTMP)
            layer[l].projection = matrix(outputs / LANES, 4, units, format);
    }
    network.output = matrix(4, 4, outputs, reads == SAMPLES && format > BF16 ? BF16 : format);
    network.output_bias = numbers(4 * LANES, 1);
    for (int i = VOCAB; i < 4 * LANES; i++)
        ((float *)network.output_bias)[i] = -1e30f;
    uint64_t drawn = outcome(VARIANTS - 1, &network, 1, 0), scored = outcome(VARIANTS - 1, &network, 1, 1);
    printf("cell %d, format %d, reads %d: %016llx %016llx\n", cell, format, reads, (unsigned long long)drawn,
           (unsigned long long)scored);
    for (int variant = 0; variant < VARIANTS; variant++)
        for (int threads = 1; threads <= 3 && charrnn_available(variant); threads++)
            if (outcome(variant, &network, threads, 0) != drawn || outcome(variant, &network, threads, 1) != scored) {
                printf("  %s, %d threads: differs\n", charrnn_variant(variant), threads);
                failed = 1;
            }
    for (int l = 0; l < DEPTH; l++)
        drop(&layer[l].input), drop(&layer[l].recurrent), drop(&layer[l].projection);
    drop(&network.output), drop(&network.numbers), drop(&network.correction);
    float *all[] = {embedding, products, bias, gain, offset, (float *)network.output_bias,
                    (float *)network.correction_bias};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    return failed;
}

int main(void)
{
    const int formats[] = {FP32, BF16, 4, 5, 6, 7};
    int failed = 0;
    for (int variant = 0; variant < VARIANTS; variant++)
        if (charrnn_available(variant))
            fprintf(stderr, "%s\n", charrnn_variant(variant));
    for (int cell = LSTM; cell <= RNN; cell++)
        for (size_t format = 0; format < sizeof formats / sizeof formats[0]; format++)
            for (int reads = EMBEDDING; reads <= SAMPLES; reads++)
                failed |= check(cell, formats[format], reads);
    return failed;
}
