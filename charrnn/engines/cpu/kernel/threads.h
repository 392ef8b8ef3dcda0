/* Threads of one call: counters to wait for, a barrier, and the memory that they work in. */

/* A waiting thread spins for SPIN_LIMIT and then sleeps for SLEEP between two reads of the counter. Both are in ns.
 *
 * The awaited thread may have lost its processor to another process. Spinning keeps that processor busy, and so does
 * sched_yield, which returns at once if no other thread waits for the same core. Only a sleeping thread leaves its
 * processor idle, so that the system can move the other thread there. But the shortest sleep lasts 60 us or more, and
 * the other threads wait for the sleeper in turn: with a lower limit, one late thread makes all others sleep. */
enum { SPIN_LIMIT = 100000, SLEEP = 1000 };
enum { SPINS_PER_CLOCK = 64 }; /* reads of the counter per read of the clock */

INLINE void arrive(Counter *counter) { atomic_fetch_add_explicit(&counter->arrived, 1, memory_order_acq_rel); }

#if defined(__wasm__)
enum { WASM_SPINS = 300000 }; /* reads of the counter before the first sleep */

/* Sleep at most `timeout` ns, or without an end if it is negative, unless a counter has changed. */
static void sleep_while_equal(Counter *counter, int64_t arrived, int64_t timeout)
{
#if defined(__wasm_atomics__) /* otherwise there is one thread, which waits for no other */
    __builtin_wasm_memory_atomic_wait64((int64_t *)&counter->arrived, arrived, timeout);
#endif
}

static void wait_for(Counter *counter, int64_t goal)
{
    int64_t arrived;
    for (int spins = 0; (arrived = atomic_load_explicit(&counter->arrived, memory_order_acquire)) < goal; spins++)
        if (spins >= WASM_SPINS)
            sleep_while_equal(counter, arrived, SPIN_LIMIT);
}
#else
static void wait_for(Counter *counter, int64_t goal)
{
    int64_t spin_end = 0;
    for (int spins = 1; atomic_load_explicit(&counter->arrived, memory_order_acquire) < goal; spins++) {
#if ON_X86
        _mm_pause();
#elif ON_ARM
        __asm__ volatile("yield");
#endif
        if (spins % SPINS_PER_CLOCK == 0) {
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC, &now);
            int64_t ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
            if (!spin_end)
                spin_end = ns + SPIN_LIMIT;
            else if (ns > spin_end)
                nanosleep(&(struct timespec){.tv_nsec = SLEEP}, NULL);
        }
    }
}
#endif

/* Wait until all threads of the call have reached the barrier. */
INLINE void barrier(Thread *t)
{
    t->goal += t->shared->threads;
    arrive(&t->shared->barrier);
    wait_for(&t->shared->barrier, t->goal);
}

/* -- memory ------------------------------------------------------------ */

/* Memory that is released all at once: a list of blocks, each of which begins with the address of the one before. */
typedef struct {
    void *newest;
    int failed;
} Pool;

/* Return zeroed memory for `count` items on cache lines of its own; NULL if there is not enough. */
static void *allocate(Pool *pool, int64_t count, size_t size)
{
    void *block = NULL;
    size_t bytes = CACHE_LINE + ((size_t)count * size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    if (pool->failed || posix_memalign(&block, CACHE_LINE, bytes)) {
        pool->failed = 1;
        return NULL;
    }
    memset(block, 0, bytes);
    *(void **)block = pool->newest;
    pool->newest = block;
    return (char *)block + CACHE_LINE;
}

static void release(Pool *pool)
{
    while (pool->newest) {
        void *block = pool->newest;
        pool->newest = *(void **)block;
        free(block);
    }
}

static void allocate_vectors(Pool *pool, Vectors *vectors, int64_t streams, int64_t size)
{
    vectors->values = allocate(pool, streams * size, sizeof(float));
    vectors->bytes = allocate(pool, streams * size, 1);
    vectors->scale = allocate(pool, streams, sizeof(float));
    vectors->sum = allocate(pool, streams, sizeof(int32_t));
}

/* Return the threads of a call with their memory, which is incomplete if the pool has failed. */
static Thread *allocate_threads(Pool *pool, const Network *network, const Work *work, int threads)
{
    int64_t n = work->streams, rows = 0, units = 0, outputs = network->embedding_size;
    Shared *shared = allocate(pool, 1, sizeof *shared);
    Thread *thread = allocate(pool, threads, sizeof *thread);
    float **recurrent = allocate(pool, network->layers, sizeof *recurrent);
    for (int l = 0; l < network->layers && !pool->failed; l++) {
        const Layer *layer = network->layer + l;
        int64_t layer_rows = rows_of(&layer->recurrent);
        recurrent[l] = allocate(pool, n * layer_rows, sizeof(float));
        rows = layer_rows > rows ? layer_rows : rows;
        units = layer->units > units ? layer->units : units;
        outputs = layer->outputs > outputs ? layer->outputs : outputs;
    }
    if (pool->failed)
        return NULL;
    shared->network = network;
    shared->work = work;
    shared->recurrent = recurrent;
    shared->input = allocate(pool, n * rows, sizeof(float));
    shared->hidden = allocate(pool, n * units, sizeof(float));
    shared->logits = allocate(pool, n * rows_of(&network->output), sizeof(float));
    int32_t numbers = network->numbers.inputs;
    shared->numbers = allocate(pool, n * numbers, sizeof(float));
    if (network->predictors) {
        shared->correction = allocate(pool, n * LANES, sizeof(float));
        shared->forecast = allocate(pool, n * network->predictors->count, sizeof(Forecast));
    }
    int64_t inputs = outputs > units ? outputs : units;
    inputs = numbers > inputs ? numbers : inputs;
    for (int i = 0; i < threads && !pool->failed; i++) {
        thread[i] = (Thread){.shared = shared, .index = i};
        thread[i].h = allocate(pool, network->layers, sizeof(Vectors));
        thread[i].normed = allocate(pool, n * outputs, sizeof(float));
        thread[i].unpacked = allocate(pool, inputs * LANES * MAX_WIDTH, 1);
        allocate_vectors(pool, &thread[i].x, n, inputs);
        if (network->predictors)
            thread[i].memory = allocate(pool, 1, sizeof(PredictorMemory));
        for (int l = 0; l < network->layers && !pool->failed; l++)
            allocate_vectors(pool, &thread[i].h[l], n, network->layer[l].outputs);
    }
    return thread;
}
