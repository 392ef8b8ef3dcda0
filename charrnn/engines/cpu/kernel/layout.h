/* Structures and constants of the layout of weights and activations in memory.
 *
 * 16 rows of a matrix are a vector, and `width` vectors a tile. The weights of a tile are stored in the order in which
 * they are read: for each group of inputs, one vector after another. The rows of a layer are ordered by unit, so that
 * a tile has all gates of 16 units.
 *
 * Integer weights of 4 to 7 bits are unsigned, with zero in the middle of their range. Activations are signed bytes.
 * These are the types of the processors' dot products, which add up 4 products in each 32-bit lane without rounding.
 *
 * charrnn/engines/cpu/library.py has Matrix, Layer, Network and Work in ctypes.
 */

enum { LANES = 16, GROUP = 4, MAX_WIDTH = 4, CACHE_LINE = 64 };
enum { LSTM, LSTMP, GRU, RNN };  /* cells */
enum { FP32 = 0, BF16 = 1 };     /* formats of weights; 4 to 7 are integers of 4 to 7 bits */
enum { MAX_ORDER = 256, MAX_WINDOW = 8192 }; /* of predictors */
enum { EIGHT = 8, LAGS = 8 }; /* samples in a vector, and lags that are computed together */
#define RESOLUTION 1048576.0 /* coefficients of predictors are multiples of its inverse */
#define LARGEST 262144.0     /* limit of a coefficient */
#define ROUND 12582912.0f    /* 1.5 * 2^23: a float of this size has no fraction, so (x + ROUND) - ROUND rounds x */
#define ROUND_BITS 0x4b400000 /* of ROUND as an integer; those of x + ROUND are larger by the rounded x */

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4)));
typedef double eight __attribute__((vector_size(8 * EIGHT), aligned(8)));
typedef double doubles __attribute__((vector_size(8 * LANES), aligned(8)));

/* -- the caller's structures: nothing is kept between calls ------------------------------------------------------------ */

/* A matrix (16 * vectors, inputs). */
typedef struct {
    int32_t vectors;       /* of 16 rows each; a whole number of tiles */
    int32_t width;         /* vectors in a tile: 4 or 3, or 1 in fp32 */
    int32_t inputs;        /* a multiple of 16, or in fp32 and bf16 of 2 */
    int32_t format;
    const uint8_t *weights;
    const float *scale;    /* (rows,) value of the integer 1; integer formats only */
} Matrix;

INLINE int64_t rows_of(const Matrix *m) { return (int64_t)m->vectors * LANES; }
INLINE int stored_bits(int format) { return format == FP32 ? 32 : format == BF16 ? 16 : format == 7 ? 8 : format; }
INLINE int64_t tile_bytes(const Matrix *m)
{
    return (int64_t)m->width * LANES * m->inputs * stored_bits(m->format) / 8;
}

typedef struct {
    int32_t cell;
    int32_t units;                 /* H, padded to a multiple of 16 */
    int32_t outputs;               /* size of the output, padded: P of an LSTMP, H of other cells */
    int32_t norm_size;             /* outputs that layer normalisation covers; 0: no normalisation */
    float epsilon;
    Matrix input;                  /* W; of the first layer only if there is no table */
    Matrix recurrent;              /* U */
    Matrix projection;             /* R of an LSTMP */
    const float *bias;             /* (rows,) added to W x */
    const float *recurrent_bias;   /* (rows,) added to U h; GRU only */
    const float *gain, *offset;    /* (outputs,) of the normalisation */
} Layer;

/* Parameters of one predictor of samples; charrnn/data/predictor.py explains them. */
typedef struct {
    int32_t order;                 /* at most MAX_ORDER */
    int32_t length;                /* at most MAX_WINDOW */
    int32_t hop;                   /* samples for which coefficients are used */
    int32_t peak;                  /* of the window, at most 255 */
    const int16_t *window;         /* (length,) whole numbers */
    double white_noise, noise_floor;
} LinearPredictor;

typedef struct {
    int32_t count;
    int32_t history;               /* samples that predictions depend on */
    const LinearPredictor *predictor;
} Predictors;

typedef struct {
    int32_t vocab;
    int32_t layers;
    int32_t embedding_size;        /* padded to a multiple of 16 */
    const float *table;            /* (vocab, rows) W x + b of the first layer for each symbol x, or NULL */
    const float *embedding;        /* (vocab, embedding_size) if there is no table */
    const Layer *layer;
    Matrix output;
    const float *output_bias;
    /* Only of networks that read samples as numbers; the first layer then has a table. */
    int32_t context;               /* samples before the last one that are read */
    int32_t history;               /* samples that the inputs of a step depend on; 0 for other networks */
    Matrix numbers;                /* (rows of the first layer, inputs of samples), added to the table */
    const Predictors *predictors;  /* NULL without prediction */
    Matrix correction;             /* (16, inputs) of the predictions, by the last layer; fp32 */
    const float *correction_bias;  /* (16,) */
} Network;

/* The work of one call. Arrays of streams have the shape (streams, ...). */
typedef struct {
    int64_t streams, steps;
    float *const *h;               /* per layer (streams, outputs): h, or r of an LSTMP; changed in place */
    float *const *c;               /* per layer (streams, units); not read for cells without c */
    int64_t *last;                 /* last symbols, not read yet; never negative */
    const float *u;                /* (steps, streams) uniform numbers, or NULL if `forced` is given */
    const int64_t *forced;         /* (streams, steps) symbols to read instead of sampled ones */
    int64_t *ids;                  /* (streams, steps) sampled symbols */
    double *scores;                /* (streams, steps) log-probabilities of `forced`, or NULL */
    float *y;                      /* (streams, steps, outputs) h of the last layer after each step, or NULL */
    const double *temperatures;    /* (streams,), 0 or more; or NULL if `forced` is given */
    int8_t *samples;               /* (streams, history + steps): those before; the kernel appends what it reads */
    const int64_t *phase;          /* (streams,) samples since all coefficients were computed */
} Work;

/* Memory of a predictor while it solves for coefficients. */
typedef struct {
    int16_t windowed[MAX_WINDOW + 2 * MAX_ORDER]; /* begins with zeros */
    double r[MAX_ORDER + 8], u[MAX_ORDER], a[MAX_ORDER], reversed[MAX_ORDER];
} PredictorMemory;

/* Coefficients and prediction of one predictor of a stream at a step. */
typedef struct {
    double coefficients[MAX_ORDER]; /* the newest sample's last */
    float value;                    /* prediction of the next sample */
} Forecast;

/* -- structures that the threads of a call share or own ----------------------------------------------------------------- */

typedef struct {
    _Atomic int64_t arrived;
    char padding[CACHE_LINE - sizeof(int64_t)];
} Counter;

typedef struct {
    const Network *network;
    const Work *work;
    int threads;
    Counter start;         /* 1 when the number of threads is final */
    Counter barrier;
    float **recurrent;     /* per layer (streams, rows): U h */
    float *input;          /* (streams, largest rows): W x of the current layer */
    float *hidden;         /* (streams, largest units): h of an LSTMP before the projection */
    float *logits;         /* (streams, padded vocab) */
    float *numbers;        /* (streams, inputs of `numbers`) */
    float *correction;     /* (streams, 16) */
    Forecast *forecast;    /* (streams, predictors) */
} Shared;

/* Input vectors (streams, size) of matrices. Float matrices read `values`; integer matrices read the rest. */
typedef struct {
    float *values;
    int8_t *bytes;         /* values / scale, rounded; at most 127 */
    float *scale;          /* (streams,) */
    int32_t *sum;          /* (streams,) sums of bytes */
    int32_t size;
} Vectors;

/* Weights to load into the core's cache while others are in use. */
typedef struct {
    const uint8_t *next, *end;
} Prefetch;

enum { PREFETCH_IN_PRODUCT = 3, PREFETCH_IN_CELL = 24 }; /* cache lines per 16 inputs, and per 16 units */

INLINE void prefetch(Prefetch *weights, int lines)
{
    if (weights->next < weights->end) {
        for (int i = 0; i < lines; i++)
            __builtin_prefetch(weights->next + i * CACHE_LINE, 0, 2);
        weights->next += lines * CACHE_LINE;
    }
}

typedef struct {
    Shared *shared;
    int index;
    int64_t goal;          /* value of the barrier's counter that completes it */
    Prefetch prefetch;
    Vectors *h;            /* per layer: its state, the input of its recurrent matrix */
    Vectors x;             /* input of the current matrix */
    float *normed;         /* (streams, largest outputs) */
    uint8_t *unpacked;     /* one tile, a byte per weight */
    PredictorMemory *memory;
} Thread;
