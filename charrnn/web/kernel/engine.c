/* Sampling engine of a page: the kernel of charrnn/engines/cpu in WebAssembly, and what charrnn/engines/base.py and
 * charrnn/sampling/generate.py do around it, for one stream at a time.
 *
 * charrnn/web/memory_image.py writes the structures that the functions receive, and tools/make_web_engine.py compiles this
 * file. One or two workers run a network; with two, both instantiate the module on the same memory.
 */

#include <math.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <wasm_simd128.h>

#include "../../engines/cpu/kernel/layout.h"
#include "../../engines/cpu/kernel/threads.h"
#include "../../engines/cpu/kernel/table.h"
#define VARIANT wasm
#include "../../engines/cpu/kernel/variant.h"
#include "philox.h"
#include "level.h"

#define WEB_EXPORT(name) __attribute__((export_name(#name)))

typedef struct {
    const Network *network;
    Work *work;            /* of one stream; its arrays have space for LEVEL_BLOCK steps */
    const double *first;   /* (vocab,) cumulated weights of the first symbol */
    int32_t *ids;          /* (LEVEL_BLOCK,) symbols that `draw` returns */
    double calibration;    /* factor of temperatures */
    Level level;
    uint64_t seed;
    int64_t position;      /* symbols drawn since the start */
    int32_t period;        /* of the phase of predictors */
} Stream;

/* -- work of a second thread ------------------------------------------------------------ */

static struct {
    Counter published;     /* jobs so far */
    Counter finished;
    Thread *thread;        /* of the second worker in the newest job */
} jobs;
static int workers = 1;

/* Allocate memory for `bytes`, on a cache line of its own; return NULL if there is not enough. */
WEB_EXPORT(allocate) void *allocate_bytes(size_t bytes)
{
    void *memory = NULL;
    return posix_memalign(&memory, CACHE_LINE, bytes) ? NULL : memory;
}

/* Return whether this browser's dot products are exact for the largest weights and inputs. The specification of relaxed
 * SIMD defines these results, and this checks the implementation. */
WEB_EXPORT(is_exact) int is_exact(void)
{
    V(bytes) weights = {0x7f7f, 0x017f, 0x7f01, 0x0000, 0x7f00, 0x007f, 0x4040, 0x1f03};
    uint8_t w[V(REGISTER)];
    memcpy(w, &weights, sizeof w);
    for (int sign = -1; sign <= 1; sign += 2) {
        int8_t x[GROUP] = {(int8_t)(127 * sign), (int8_t)(127 * sign), -127, (int8_t)(3 * sign)};
        int32_t four;
        memcpy(&four, x, sizeof four);
        V(integers) sums = V(dot)((V(integers)){7, -7, 0, 1 << 30}, weights, four);
        const int32_t before[] = {7, -7, 0, 1 << 30};
        for (int row = 0; row < V(REGISTER) / GROUP; row++) {
            int32_t sum = before[row];
            for (int k = 0; k < GROUP; k++)
                sum += w[GROUP * row + k] * x[k];
            if (sums[row] != sum)
                return 0;
        }
    }
    return 1;
}

/* Set how many workers run a network from now on, 1 or 2; the second one has to be in run_second_worker. */
WEB_EXPORT(use_workers) void use_workers(int count) { workers = count; }

/* Compute the second worker's part of every job; never return. */
WEB_EXPORT(run_second_worker) void run_second_worker(void)
{
    for (int64_t job = 1;; job++) {
        int64_t published;
        for (int spins = 0; (published = atomic_load(&jobs.published.arrived)) < job; spins++)
            if (spins >= WASM_SPINS)
                sleep_while_equal(&jobs.published, published, -1); /* run_network wakes it */
        V(run)(jobs.thread);
        arrive(&jobs.finished);
    }
}

/* Run a network; return 0, or -1 if there is not enough memory. */
static int run_network(const Network *network, const Work *work)
{
    Pool pool = {0};
    Thread *thread = allocate_threads(&pool, network, work, workers);
    if (!pool.failed) {
        thread->shared->threads = workers;
        if (workers > 1) {
            jobs.thread = thread + 1;
            arrive(&jobs.published);
#if defined(__wasm_atomics__)
            __builtin_wasm_memory_atomic_notify((int32_t *)&jobs.published.arrived, 1);
#endif
        }
        V(run)(thread);
        if (workers > 1)
            wait_for(&jobs.finished, jobs.published.arrived);
    }
    int failed = pool.failed;
    release(&pool);
    return -failed;
}

/* -- preparation of a network ------------------------------------------------------------ */

/* Compute the table of a network's first layer from its factors, for which charrnn_table has the shapes. */
WEB_EXPORT(fill_table) void fill_table(int vocab, int inputs, int rows, const float *embedding, const float *columns,
                                       const float *bias, float *table)
{
    charrnn_table(vocab, inputs, rows, embedding, columns, bias, table);
}

/* Store the weights of 5 and 6 bits of a matrix in a byte each: with registers of 16 bytes, the instructions that unpack
 * them would take longer than reading more memory. Return 0, or -1 if there is not enough memory. */
static int unpack_matrix(Matrix *m)
{
    if (m->format != 5 && m->format != 6)
        return 0;
    int64_t quads = rows_of(m) * m->inputs / 256;
    uint8_t *unpacked = allocate_bytes((size_t)quads * 256);
    if (!unpacked)
        return -1;
    uint16_t difference = (uint16_t)((1 << 6) - (1 << (m->format - 1))); /* of what is stored for a weight of 0 */
    for (int64_t quad = 0; quad < quads; quad++)
        for (int part = 0; part < V(PARTS); part++) {
            V(bytes) four[4];
            V(unpack)(m->weights + quad * 32 * m->format, m->format, part, four);
            for (int i = 0; i < 4; i++) {
                four[i] += (uint16_t)(difference * 0x101); /* no sum of a byte exceeds 127 */
                memcpy(unpacked + quad * 256 + i * 64 + part * V(REGISTER), four + i, V(REGISTER));
            }
        }
    m->weights = unpacked;
    m->format = 7;
    return 0;
}

/* Prepare a network for `draw`. Return 0, or -1 if there is not enough memory. */
WEB_EXPORT(prepare) int prepare(const Network *network)
{
    for (int l = 0; l < network->layers; l++) {
        Layer *layer = (Layer *)network->layer + l;
        if (unpack_matrix(&layer->input) || unpack_matrix(&layer->recurrent) || unpack_matrix(&layer->projection))
            return -1;
    }
    return 0;
}

/* -- one stream ------------------------------------------------------------ */

/* Reset a stream's state to zeros after a last symbol, or -1 for none. */
static void reset(Stream *stream, int64_t last)
{
    const Network *network = stream->network;
    Work *work = stream->work;
    for (int l = 0; l < network->layers; l++) {
        memset(work->h[l], 0, sizeof(float) * (size_t)network->layer[l].outputs);
        if (work->c[l])
            memset(work->c[l], 0, sizeof(float) * (size_t)network->layer[l].units);
    }
    if (network->history) {
        memset(work->samples, 0, (size_t)network->history);
        *(int64_t *)work->phase = 0;
    }
    *work->last = last;
    stream->level.excess = stream->level.squares = stream->level.count = 0;
}

/* Start a stream from the zero state. */
WEB_EXPORT(start) void start(Stream *stream, uint64_t seed)
{
    reset(stream, -1);
    stream->seed = seed;
    stream->position = 0;
}

static int64_t first_symbol(const Stream *stream, double u)
{
    int64_t id = 0, last = stream->network->vocab - 1;
    while (id < last && stream->first[id] <= u * stream->first[last])
        id++;
    return id;
}

/* Draw the next symbols at a temperature into `ids`: at most `count`, and at most as many as are left of a block with
 * the same temperature factor. Return their number, or -1 if there is not enough memory. */
WEB_EXPORT(draw) int draw(Stream *stream, int count, double temperature)
{
    const Network *network = stream->network;
    Work *work = stream->work;
    Level *level = &stream->level;
    float *u = (float *)work->u;
    int left = LEVEL_BLOCK - (int)level->count, begun = *work->last >= 0;
    count = count < left ? count : left;
    *(double *)work->temperatures = stream->calibration * temperature * (level->active ? temperature_factor(level) : 1);
    uniforms(stream->seed, stream->position, count, u);
    if (!begun)
        *work->last = stream->ids[0] = (int32_t)first_symbol(stream, u[0]);
    work->steps = count - !begun;
    if (!begun)
        memmove(u, u + 1, sizeof *u * (size_t)work->steps);
    if (work->steps && run_network(network, work))
        return -1;
    for (int i = 0; i < work->steps; i++)
        stream->ids[!begun + i] = (int32_t)work->ids[i];
    if (network->history) {
        memmove(work->samples, work->samples + work->steps, (size_t)network->history);
        *(int64_t *)work->phase = (*work->phase + work->steps) % stream->period;
    }
    stream->position += count;
    if (level->active && control_level(level, stream->ids, count))
        reset(stream, SILENCE);
    return count;
}
