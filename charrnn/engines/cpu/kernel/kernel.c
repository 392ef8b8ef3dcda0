/* Compiled sampling engine: steps of a recurrent network on 1 to n threads.
 *
 * A plain library that ctypes loads, independent of Python. charrnn/engines/cpu/pack.py packs the networks. All memory
 * that a call receives is the caller's, and nothing is kept between calls: weights, state and uniform numbers are
 * arguments.
 *
 * A thread owns some tiles of each matrix, and so some units of each layer. Threads synchronise once per layer, and
 * a thread prefetches the weights of its next product while it computes cells.
 *
 * Sums of integer products are exact, and all other operations of a stream have a fixed order. So the symbols of a
 * stream depend neither on the number of streams nor on that of threads, to the last bit.
 *
 *     layout.h         structures, and the layout of weights
 *     threads.h        counters, barrier, memory of a call
 *     pack.h           quantisation and packing of weights
 *     table.h          products of the first layer with all embeddings
 *     variants.h       instruction sets; compiles variant.h for each:
 *       vector_math.h    exp, sigmoid, tanh of one register of floats
 *       dot_products.h   unpacking and dot products of one tile
 *       matrices.h       products with a whole matrix
 *       cells.h          one step of each cell
 *       predictor.h      prediction of samples
 *       samples.h        samples as inputs, and the distribution around their predictions
 *       symbols.h        sampling or scoring of the next symbol
 *       steps.h          the loop over steps and layers
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

#include "layout.h"
#include "threads.h"
#include "pack.h"
#include "table.h"
#include "variants.h"

/* Compute a function of n numbers as a variant does, for tests: 0 sigmoid, 1 tanh, 2 exp. n is a multiple of 16. */
EXPORT void charrnn_math(int variant, int which, int64_t n, const float *x, float *y)
{
    variants[variant].math(which, n, x, y);
}

/* Predict samples as charrnn.data.predictor.predict does.
 *
 *     samples                (rows, history + steps)
 *     phase                  (rows,) samples since all of a row's coefficients were computed
 *     predictions            (rows, steps + 1, predictors), which are written */
EXPORT void charrnn_predict(int variant, const Predictors *all, int64_t rows, int64_t steps, const int8_t *samples,
                            const int64_t *phase, float *predictions)
{
    variants[variant].predict(all, rows, steps, samples, phase, predictions);
}

typedef struct {
    Thread *thread;
    int variant;
} Start;

static void *run_thread(void *argument)
{
    const Start *start = argument;
    wait_for(&start->thread->shared->start, 1);
    variants[start->variant].run(start->thread);
    return NULL;
}

/* Run a network, on fewer threads if the system cannot start as many. Return 0, or -1 if there is not enough memory. */
EXPORT int charrnn_run(int variant, const Network *network, const Work *work, int threads)
{
    Pool pool = {0};
    Thread *thread = allocate_threads(&pool, network, work, threads);
    Start *start = allocate(&pool, threads, sizeof *start);
    pthread_t *handle = allocate(&pool, threads, sizeof *handle);
    if (pool.failed) {
        release(&pool);
        return -1;
    }
    int started = 1;
    for (; started < threads; started++) {
        start[started] = (Start){thread + started, variant};
        if (pthread_create(handle + started, NULL, run_thread, start + started))
            break;
    }
    thread->shared->threads = started;
    arrive(&thread->shared->start);
    variants[variant].run(thread);
    for (int i = 1; i < started; i++)
        pthread_join(handle[i], NULL);
    release(&pool);
    return 0;
}
