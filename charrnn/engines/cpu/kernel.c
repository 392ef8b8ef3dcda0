/* The step of a network, again and again, on 1 to n threads: what charrnn/engines/cpu/engine.py packs, this runs.
 *
 * A plain library that ctypes loads; it knows nothing of Python. Every pointer that it is given is the caller's, and
 * nothing is kept between calls but what the caller hands in again: weights, state, numbers.
 *
 * How the work lies. 16 rows of a matrix are a vector, `width` vectors a tile; a tile's weights lie in the order in
 * which they are used: for each group of inputs, one vector after another. The rows of a layer are ordered so that a
 * tile has all gates of 16 units. A thread owns some tiles of each matrix, and so some units of each layer; threads
 * meet once a layer, at a counter, and while one waits for the others it does what does not hang on them.
 *
 * Integer weights of 4 to 7 bits are unsigned (a row's zero lies in the middle) and inputs are signed bytes, which
 * is what the processors' dot products take: 4 products are added up in each 32-bit lane, exactly. So a stream's
 * symbols hang neither on the number of streams nor on that of threads, to the last bit.
 *
 * kernel_body.h is compiled once for each kind of processor; `available` says which of them this one can run.
 */

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define ON_X86 1
#if defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#include <sys/syscall.h>
#include <unistd.h>
#define ON_X86_WITH_TILES 1
#endif
#elif defined(__aarch64__)
#include <arm_neon.h>
#define ON_ARM 1
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

enum { LANES = 16, GROUP = 4, MOST_WIDTH = 4, CACHE_LINE = 64 };
enum { LSTM, LSTMP, GRU, RNN };         /* cells */
enum { FP32 = 0, BF16 = 1 };            /* formats of weights; 4 to 7 are integers of so many bits */
enum { FETCHED = 3, FETCHED_AT_ONCE = 24 }; /* cache lines of weights to come, for each step of what is at hand */
enum { PATIENCE = 100000, NAP = 1000 }; /* ns for which a waiting thread looks at the counter, and then sleeps between looks */
enum { LOOKS = 64 };                    /* at the counter for each at the clock */

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4)));
typedef double doubles __attribute__((vector_size(8 * LANES), aligned(8)));

/* A matrix (16 * vectors, inputs). */
typedef struct {
    int32_t vectors;       /* of 16 rows each; a whole number of tiles */
    int32_t width;         /* vectors in a tile, 1 to 4 */
    int32_t inputs;        /* a multiple of 16 */
    int32_t format;
    const uint8_t *weights;
    const float *scale;    /* of each row: what 1 is worth; integers only */
} Matrix;

INLINE int64_t rows_of(const Matrix *m) { return (int64_t)m->vectors * LANES; }
INLINE int stored_bits(int format) { return format == FP32 ? 32 : format == BF16 ? 16 : format == 7 ? 8 : format; }

typedef struct {
    int32_t cell;
    int32_t units;         /* padded to a multiple of 16 */
    int32_t outputs;       /* the same, but of an LSTMP */
    int32_t normed;        /* how many outputs layer normalisation is over; 0: there is none */
    float epsilon;
    Matrix input;          /* of the first layer only where there is no table */
    Matrix recurrent;
    Matrix projection;     /* of an LSTMP */
    const float *bias;             /* a row of the input's */
    const float *recurrent_bias;   /* of a GRU */
    const float *gain, *offset;    /* of the normalisation */
} Layer;

typedef struct {
    int32_t vocab;
    int32_t layers;
    int32_t embedding_size;        /* padded to a multiple of 16 */
    const float *table;            /* (vocab, rows): the first layer's input product of each symbol, with its bias */
    const float *embedding;        /* (vocab, embedding_size), where there is no table */
    const Layer *layer;
    Matrix output;
    const float *output_bias;
} Network;

/* One call's work. Arrays of streams are (streams, ...). */
typedef struct {
    int64_t streams, steps;
    float *const *h;               /* per layer (streams, outputs): h, or an LSTMP's r */
    float *const *c;               /* per layer (streams, units); NULL where a cell has none */
    int64_t *last;                 /* the last symbols, not yet read; never negative */
    const float *u;                /* (steps, streams), or NULL: */
    const int64_t *forced;         /* (streams, steps): symbols that are read instead of drawn */
    int64_t *ids;                  /* (streams, steps): what was drawn */
    double *scores;                /* (streams, steps): log-probabilities of what was forced, or NULL */
    float *y;                      /* (streams, steps, outputs): what the last layer's h was after each step, or NULL */
    double temperature;
} Work;

/* -- waiting ------------------------------------------------------------ */

typedef struct {
    _Atomic int64_t arrived;
    char apart[CACHE_LINE - sizeof(int64_t)];
} Counter;

INLINE void arrive(Counter *counter) { atomic_fetch_add_explicit(&counter->arrived, 1, memory_order_acq_rel); }

/* Whoever is waited for may have been taken off its processor by another process. Then spinning on keeps a processor
 * from it, and so does sched_yield, which returns at once where nobody waits for this very one: only one that sleeps
 * leaves its processor idle, so that the system moves the other thread there. But whoever sleeps is waited for in turn,
 * for the 60 us and more that the shortest sleep takes: with less patience than that, one late thread sends all others
 * to sleep by turns. */
static void wait_for(Counter *counter, int64_t goal)
{
    int64_t patience_ends = 0;
    for (int looks = 1; atomic_load_explicit(&counter->arrived, memory_order_acquire) < goal; looks++) {
#if ON_X86
        _mm_pause();
#elif ON_ARM
        __asm__ volatile("yield");
#endif
        if (looks % LOOKS == 0) {
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC, &now);
            int64_t ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
            if (!patience_ends)
                patience_ends = ns + PATIENCE;
            else if (ns > patience_ends)
                nanosleep(&(struct timespec){.tv_nsec = NAP}, NULL);
        }
    }
}

/* -- what the threads of a call share, and what is each one's own ------------------------------------------------------------ */

typedef struct {
    const Network *network;
    const Work *work;
    int threads;
    Counter gate;          /* opened once it is known how many threads there are */
    Counter counter;
    float **recurrent;     /* per layer (streams, rows): U h of the step before */
    float *input;          /* (streams, most rows): W x of the layer at hand */
    float *hidden;         /* (streams, most units): what an LSTMP projects */
    float *logits;         /* (streams, padded vocab) */
} Shared;

/* A vector for each stream, as the matrices take it. */
typedef struct {
    float *numbers;        /* (streams, size), or else: */
    int8_t *bytes;         /* the same over `unit`, rounded */
    float *unit;           /* of each stream */
    int32_t *sum;          /* of each stream's bytes */
    int32_t size;
} Vectors;

/* Weights that are brought into the core's cache while others are worked on. */
typedef struct {
    const uint8_t *next, *end;
} Ahead;

INLINE void fetch(Ahead *ahead, int lines)
{
    if (ahead->next < ahead->end) {
        for (int i = 0; i < lines; i++)
            __builtin_prefetch(ahead->next + i * CACHE_LINE, 0, 2);
        ahead->next += lines * CACHE_LINE;
    }
}

typedef struct {
    Shared *shared;
    int number;
    int64_t goal;          /* of the counter, at the next meeting */
    Ahead ahead;
    Vectors *h;            /* per layer: its state, for its recurrent product */
    Vectors x;             /* what the matrix at hand takes */
    float *normed;         /* (streams, most outputs) */
    uint8_t *unpacked;     /* a tile */
} Thread;

/* -- one variant after another ------------------------------------------------------------ */

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define V(name) JOIN(name, VARIANT)

#define QUOTE(text) _Pragma(#text)
#if defined(__clang__)
#define BEGIN_TARGET(features) QUOTE(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END_TARGET QUOTE(clang attribute pop)
#else
#define BEGIN_TARGET(features) QUOTE(GCC push_options) QUOTE(GCC target(features))
#define END_TARGET QUOTE(GCC pop_options)
#endif

#define VARIANT portable
#include "kernel_body.h"
#undef VARIANT

#if ON_X86

BEGIN_TARGET("avx2,fma")
#define VARIANT avx2
#define WITH_AVX2
#include "kernel_body.h"
#undef WITH_AVX2
#undef VARIANT
END_TARGET

BEGIN_TARGET("avx2,fma,avxvnni")
#define VARIANT avxvnni
#define WITH_AVXVNNI
#include "kernel_body.h"
#undef WITH_AVXVNNI
#undef VARIANT
END_TARGET

BEGIN_TARGET("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#define VARIANT avx512vnni
#define WITH_AVX512
#include "kernel_body.h"
#undef VARIANT
END_TARGET

BEGIN_TARGET("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni")
#define VARIANT avx512gfni
#define WITH_GFNI
#include "kernel_body.h"
#undef VARIANT
END_TARGET

#if ON_X86_WITH_TILES
BEGIN_TARGET("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,gfni,amx-tile,amx-int8")
#define VARIANT avx512amx
#define WITH_AMX
#include "kernel_body.h"
#undef WITH_AMX
#undef VARIANT
END_TARGET
#endif

#undef WITH_GFNI
#undef WITH_AVX512

#elif ON_ARM

#if defined(__clang__)
BEGIN_TARGET("dotprod")
#else
BEGIN_TARGET("arch=armv8.2-a+dotprod")
#endif
#define VARIANT neondot
#define WITH_NEON
#include "kernel_body.h"
#undef WITH_NEON
#undef VARIANT
END_TARGET

#endif

typedef struct {
    const char *name;
    void (*run)(Thread *);
    void (*math)(int which, int64_t n, const float *x, float *y);
} Variant;

/* The fastest first. */
static const Variant variants[] = {
#if ON_X86_WITH_TILES
    {"avx512amx", run_avx512amx, math_avx512amx},
#endif
#if ON_X86
    {"avx512gfni", run_avx512gfni, math_avx512gfni},
    {"avx512vnni", run_avx512vnni, math_avx512vnni},
    {"avxvnni", run_avxvnni, math_avxvnni},
    {"avx2", run_avx2, math_avx2},
#elif ON_ARM
    {"neondot", run_neondot, math_neondot},
#endif
    {"portable", run_portable, math_portable},
};

enum { VARIANTS = sizeof variants / sizeof variants[0] };

/* -- what Python calls ------------------------------------------------------------ */

/* The name of a variant, the fastest being 0, or NULL after the last. */
EXPORT const char *charrnn_variant(int variant) { return variant < VARIANTS ? variants[variant].name : NULL; }

/* Whether this processor can run a variant. */
EXPORT int charrnn_available(int variant)
{
    const char *name = variants[variant].name;
    if (!strcmp(name, "portable"))
        return 1;
#if ON_X86
    unsigned a = 0, b = 0, c = 0, d = 0;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 0;
    if (!strcmp(name, "avx2"))
        return 1;
    if (!strcmp(name, "avxvnni"))
        return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
    if ((!strcmp(name, "avx512gfni") || !strcmp(name, "avx512amx")) && !__builtin_cpu_supports("gfni"))
        return 0;
#if ON_X86_WITH_TILES
    if (!strcmp(name, "avx512amx")) { /* a process has to ask for its tile registers */
        enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d >> 24 & 3) != 3 ||
            syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA))
            return 0;
    }
#endif
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
#elif ON_ARM && defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif ON_ARM && defined(__APPLE__)
    return 1;
#else
    return 0;
#endif
}

/* A variant's functions of numbers, to be looked at: 0 sigmoid, 1 tanh, 2 exp. n is a multiple of 16. */
EXPORT void charrnn_math(int variant, int which, int64_t n, const float *x, float *y)
{
    variants[variant].math(which, n, x, y);
}

/* What the first layer makes of each symbol: embedding (vocab, inputs) times columns (inputs, rows), and bias (rows,). A
 * library's product adds up in an order that hangs on the processor, and this has to be the same on all of them. */
EXPORT void charrnn_table(int64_t vocab, int64_t inputs, int64_t rows, const float *embedding, const float *columns,
                          const float *bias, float *table)
{
    for (int64_t v = 0; v < vocab; v++, table += rows) {
        memcpy(table, bias, (size_t)rows * sizeof *table);
        for (int64_t k = 0; k < inputs; k++)
            for (int64_t row = 0; row < rows; row++)
                table[row] += embedding[v * inputs + k] * columns[k * rows + row];
    }
}

/* Round a row to whole numbers from -top - 1 to top, and say what 1 is worth. The scale is the one of some tried with
 * the least squared error: a few weights at the ends that do not fit cost less than coarser steps for all. */
static float quantise_row(const float *row, int64_t inputs, int top, int8_t *whole)
{
    enum { TRIED = 13 };
    float most = 0, best = 0;
    double least = INFINITY;
    for (int64_t k = 0; k < inputs; k++)
        most = fabsf(row[k]) > most ? fabsf(row[k]) : most;
    for (int tried = 0; tried < TRIED && most > 0; tried++) {
        float unit = most / (float)top * (1.0f - 0.04f * (float)tried), over = 1 / unit, low = -(float)top - 1;
        float error[LANES] = {0};
        for (int64_t k = 0; k < inputs; k += LANES)
            for (int lane = 0; lane < LANES; lane++) {
                float x = row[k + lane] * over, whole_x = (x + 12582912.0f) - 12582912.0f; /* rounded: 1.5 * 2^23 */
                whole_x = whole_x > (float)top ? (float)top : whole_x < low ? low : whole_x;
                error[lane] += (x - whole_x) * (x - whole_x);
            }
        double sum = 0;
        for (int lane = 0; lane < LANES; lane++)
            sum += error[lane];
        sum *= (double)unit * unit;
        if (sum < least) {
            least = sum;
            best = unit;
        }
    }
    for (int64_t k = 0; k < inputs; k++) {
        float x = best > 0 ? rintf(row[k] / best) : 0;
        whole[k] = (int8_t)(x > (float)top ? top : x < -(float)top - 1 ? -top - 1 : (int)x);
    }
    return best;
}

/* The bytes that a matrix takes. */
EXPORT int64_t charrnn_size(const Matrix *m) { return rows_of(m) * m->inputs * stored_bits(m->format) / 8; }

/* Lay rows (16 * vectors, inputs) out in `weights`, charrnn_size bytes that are all zero, and `scale`. 0, or -1 where
 * there is no memory.
 *
 * A vector of integers is 64 bytes: 4 inputs of each of 16 rows. Of 4 bits, two vectors share one, the second in the
 * upper halves. Of 5 bits, four lie so but for one bit of each, the highest of the first and the third and the lowest of
 * the others, which are in 32 bytes after them. Of 6 bits, four share three: each of
 * the three has two bits of the fourth above its own six. */
EXPORT int charrnn_pack(const Matrix *m, const float *rows, uint8_t *weights, float *scale)
{
    int64_t inputs = m->inputs;
    int bits = m->format, group = bits == FP32 ? 1 : bits == BF16 ? 2 : GROUP;
    int top = bits > BF16 ? (1 << (bits - 1)) - 1 : 0;
    int8_t *whole = malloc((size_t)inputs);
    if (!whole)
        return -1;
    for (int64_t row = 0; row < rows_of(m); row++) {
        const float *from = rows + row * inputs;
        int64_t vector = row / LANES, tile = vector / m->width;
        if (bits > BF16)
            scale[row] = quantise_row(from, inputs, top, whole);
        for (int64_t k = 0; k < inputs; k++) {
            int64_t nth = (tile * (inputs / group) + k / group) * m->width + vector % m->width; /* vector, as they lie */
            int64_t lane = row % LANES * group + k % group, at = nth * LANES * group + lane;
            if (bits == FP32) {
                memcpy(weights + 4 * at, from + k, 4);
            } else if (bits == BF16) {
                uint32_t word;
                memcpy(&word, from + k, 4);
                uint16_t upper = (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16); /* the nearest, or the even one */
                memcpy(weights + 2 * at, &upper, 2);
            } else {
                unsigned value = (unsigned)(whole[k] + top + 1);
                if (bits == 4) {
                    weights[nth / 2 * 64 + lane] |= (uint8_t)(value << nth % 2 * 4);
                } else if (bits == 5) {
                    uint8_t *quad = weights + nth / 4 * 160;
                    unsigned four = nth % 2 ? value >> 1 << 4 : value & 15, fifth = nth % 2 ? value & 1 : value >> 4;
                    quad[nth % 4 / 2 * 64 + lane] |= (uint8_t)four;
                    quad[128 + lane % 32] |= (uint8_t)(fifth << (nth % 4 + lane / 32 * 4));
                } else if (bits == 6 && nth % 4 < 3) {
                    weights[nth / 4 * 192 + nth % 4 * 64 + lane] |= (uint8_t)value;
                } else if (bits == 6) {
                    for (int i = 0; i < 3; i++)
                        weights[nth / 4 * 192 + i * 64 + lane] |= (uint8_t)((value >> 2 * i & 3) << 6);
                } else {
                    weights[at] = (uint8_t)value;
                }
            }
        }
    }
    free(whole);
    return 0;
}

typedef struct {
    Thread *thread;
    int variant;
} Start;

static void *begin(void *argument)
{
    const Start *start = argument;
    wait_for(&start->thread->shared->gate, 1);
    variants[start->variant].run(start->thread);
    return NULL;
}

/* Memory that is given back all at once: pieces, each of which begins with the address of the one before. */
typedef struct {
    void *newest;
    int failed;
} Pool;

/* Room for a count of things, all zero, on cache lines of its own; NULL where there is no memory. */
static void *take(Pool *pool, int64_t count, size_t size)
{
    void *piece = NULL;
    size_t bytes = CACHE_LINE + ((size_t)count * size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    if (pool->failed || posix_memalign(&piece, CACHE_LINE, bytes)) {
        pool->failed = 1;
        return NULL;
    }
    memset(piece, 0, bytes);
    *(void **)piece = pool->newest;
    pool->newest = piece;
    return (char *)piece + CACHE_LINE;
}

static void give_back(Pool *pool)
{
    while (pool->newest) {
        void *piece = pool->newest;
        pool->newest = *(void **)piece;
        free(piece);
    }
}

static void take_vectors(Pool *pool, Vectors *vectors, int64_t streams, int64_t size)
{
    vectors->numbers = take(pool, streams * size, sizeof(float));
    vectors->bytes = take(pool, streams * size, 1);
    vectors->unit = take(pool, streams, sizeof(float));
    vectors->sum = take(pool, streams, sizeof(int32_t));
}

/* All that the threads of a call work in; where `failed`, there is not enough memory for it. */
static Thread *prepare(Pool *pool, const Network *network, const Work *work, int threads)
{
    int64_t n = work->streams, rows = 0, units = 0, outputs = network->embedding_size;
    Shared *shared = take(pool, 1, sizeof *shared);
    Thread *thread = take(pool, threads, sizeof *thread);
    float **recurrent = take(pool, network->layers, sizeof *recurrent);
    for (int l = 0; l < network->layers && !pool->failed; l++) {
        const Layer *layer = network->layer + l;
        int64_t wide = rows_of(&layer->recurrent);
        recurrent[l] = take(pool, n * wide, sizeof(float));
        rows = wide > rows ? wide : rows;
        units = layer->units > units ? layer->units : units;
        outputs = layer->outputs > outputs ? layer->outputs : outputs;
    }
    if (pool->failed)
        return NULL;
    shared->network = network;
    shared->work = work;
    shared->recurrent = recurrent;
    shared->input = take(pool, n * rows, sizeof(float));
    shared->hidden = take(pool, n * units, sizeof(float));
    shared->logits = take(pool, n * rows_of(&network->output), sizeof(float));
    int64_t inputs = outputs > units ? outputs : units;
    for (int i = 0; i < threads && !pool->failed; i++) {
        thread[i] = (Thread){.shared = shared, .number = i};
        thread[i].h = take(pool, network->layers, sizeof(Vectors));
        thread[i].normed = take(pool, n * outputs, sizeof(float));
        thread[i].unpacked = take(pool, inputs * LANES * MOST_WIDTH, 1);
        take_vectors(pool, &thread[i].x, n, inputs);
        for (int l = 0; l < network->layers && !pool->failed; l++)
            take_vectors(pool, &thread[i].h[l], n, network->layer[l].outputs);
    }
    return thread;
}

/* Run a network. 0, or -1 where there is no memory. With fewer threads where the system has no more. */
EXPORT int charrnn_run(int variant, const Network *network, const Work *work, int threads)
{
    Pool pool = {0};
    Thread *thread = prepare(&pool, network, work, threads);
    Start *start = take(&pool, threads, sizeof *start);
    pthread_t *handle = take(&pool, threads, sizeof *handle);
    if (pool.failed) {
        give_back(&pool);
        return -1;
    }
    int started = 1;
    for (; started < threads; started++) {
        start[started] = (Start){thread + started, variant};
        if (pthread_create(handle + started, NULL, begin, start + started))
            break;
    }
    thread->shared->threads = started;
    arrive(&thread->shared->gate);
    variants[variant].run(thread);
    for (int i = 1; i < started; i++)
        pthread_join(handle[i], NULL);
    give_back(&pool);
    return 0;
}
