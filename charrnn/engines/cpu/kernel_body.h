/* All that is compiled once for each variant of cpu_kernel.c, which includes this with VARIANT and a WITH_ macro set. */

/* -- functions of numbers, 16 at a time ------------------------------------------------------------ */

INLINE floats V(where)(ints mask, floats yes, floats no) { return (floats)(((ints)yes & mask) | ((ints)no & ~mask)); }

/* e^x to within 2e-7 of itself: 2^n times Taylor's series of e^r, |r| <= ln 2 / 2. 0 below -87, e^88 above 88. */
INLINE floats V(exp)(floats x)
{
    const floats zero = {0};
    floats inside = V(where)(x > 88.0f, zero + 88.0f, x);
    inside = V(where)(inside < -87.0f, zero - 87.0f, inside);
    floats n = (inside * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounded: 1.5 * 2^23 has no places after it */
    floats r = inside - n * 0.693145751953125f;                     /* ln 2 in two pieces; the first is exact times n */
    r = r - n * 1.42860677e-6f;
    floats y = r * (1.0f / 5040) + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    ints power = (__builtin_convertvector(n, ints) + 127) << 23;
    return V(where)(x < -87.0f, zero, y * (floats)power);
}

/* Both to within 2e-7, absolutely. */
INLINE floats V(sigmoid)(floats x) { return 1.0f / (1.0f + V(exp)(-x)); }
INLINE floats V(tanh)(floats x) { return 1.0f - 2.0f / (1.0f + V(exp)(x + x)); }

static void V(math)(int which, int64_t n, const float *x, float *y)
{
    for (int64_t i = 0; i < n; i += LANES) {
        floats in = *(const floats *)(x + i);
        *(floats *)(y + i) = which == 0 ? V(sigmoid)(in) : which == 1 ? V(tanh)(in) : V(exp)(in);
    }
}

INLINE float V(total)(floats x)
{
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++)
            x[lane] += x[lane + half];
    return x[0];
}

/* -- products ------------------------------------------------------------ */

/* A processor's own vector of weights, and what adds the products of four weights and four inputs to each 32-bit sum. Streams are
 * worked on MANY at a time, as long as there are so many, then STREAMS at a time, and then one by one. */
#if defined(WITH_AMX)
enum { V(MANY) = 16, V(STREAMS) = 4, V(BYTES) = 64, V(CHAINS) = 2 };
#elif defined(WITH_AVX512)
enum { V(MANY) = 4, V(STREAMS) = 4, V(BYTES) = 64, V(CHAINS) = 2 };
#elif defined(WITH_AVX2) || defined(WITH_AVXVNNI)
enum { V(MANY) = 1, V(STREAMS) = 1, V(BYTES) = 32, V(CHAINS) = 1 };
#else
enum { V(MANY) = 1, V(STREAMS) = 1, V(BYTES) = 16, V(CHAINS) = 1 };
#endif

enum { V(PARTS) = 64 / V(BYTES) }; /* in which 16 rows by 4 inputs lie */

typedef uint16_t V(bytes) __attribute__((vector_size(V(BYTES))));
typedef int32_t V(sums) __attribute__((vector_size(V(BYTES))));

INLINE V(sums) V(dot)(V(sums) sum, V(bytes) w, int32_t four)
{
#if defined(WITH_AVX512)
    return (V(sums))_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, _mm512_set1_epi32(four));
#elif defined(WITH_AVXVNNI)
    return (V(sums))_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, _mm256_set1_epi32(four));
#elif defined(WITH_AVX2)
    /* two products of at most 127 * 127 in 16 bits: 7 bits are as many as a weight may have */
    __m256i pairs = _mm256_maddubs_epi16((__m256i)w, _mm256_set1_epi32(four));
    return sum + (V(sums))_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(WITH_NEON)
    return (V(sums))vdotq_s32((int32x4_t)sum, (int8x16_t)w, vreinterpretq_s8_s32(vdupq_n_s32(four)));
#else
    int8_t x[GROUP];
    uint8_t weights[sizeof w];
    memcpy(x, &four, sizeof x);
    memcpy(weights, &w, sizeof w);
    for (int row = 0; row < V(BYTES) / GROUP; row++)
        for (int k = 0; k < GROUP; k++)
            sum[row] += weights[GROUP * row + k] * x[k];
    return sum;
#endif
}

INLINE V(bytes) V(load)(const uint8_t *w)
{
    V(bytes) loaded;
    memcpy(&loaded, w, sizeof loaded);
    return loaded;
}

/* The fifth bits of four vectors of weights, in the lower four bits of each byte of a part; of 64 bytes, the first 32 have
 * theirs in the lower halves of 32 bytes, the others in the upper halves. */
INLINE V(bytes) V(fifths)(const uint8_t *w, int part)
{
#if defined(WITH_AVX512)
    __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)w));
    (void)part;
    return (V(bytes))_mm512_mask_srli_epi64(both, 0xf0, both, 4);
#else
    return V(load)(w + part * V(BYTES) % 32) >> (part * V(BYTES) / 32 * 4);
#endif
}

/* A part of four vectors of weights, a byte each, from where they lie in their bits (see charrnn_pack). */
INLINE void V(unpack)(const uint8_t *w, int bits, int part, V(bytes) four[4])
{
    w += part * V(BYTES);
    if (bits == 4) {
        V(bytes) a = V(load)(w), b = V(load)(w + 64);
        four[0] = a & 0x0f0f, four[1] = a >> 4 & 0x0f0f, four[2] = b & 0x0f0f, four[3] = b >> 4 & 0x0f0f;
    } else if (bits == 5) {
        V(bytes) a = V(load)(w), b = V(load)(w + 64), high = V(fifths)(w + 128 - part * V(BYTES), part);
        four[0] = (a & 0x0f0f) | (high << 4 & 0x1010), four[1] = (a >> 3 & 0x1e1e) | (high >> 1 & 0x0101);
        four[2] = (b & 0x0f0f) | (high << 2 & 0x1010), four[3] = (b >> 3 & 0x1e1e) | (high >> 3 & 0x0101);
    } else if (bits == 6) {
        V(bytes) a = V(load)(w), b = V(load)(w + 64), c = V(load)(w + 128);
        four[0] = a & 0x3f3f, four[1] = b & 0x3f3f, four[2] = c & 0x3f3f;
        four[3] = (a >> 6 & 0x0303) | (b >> 4 & 0x0c0c) | (c >> 2 & 0x3030);
    } else {
        for (int i = 0; i < 4; i++)
            four[i] = V(load)(w + 64 * i);
    }
}

#if defined(WITH_GFNI)
/* Four vectors of 5 bits in two steps for each: an 8 x 8 product of bits takes a vector's fifth bits to their place, and the
 * other four are joined to them where they lie. So every other vector comes out times 8. */
INLINE void V(unpack_times_8)(const uint8_t *w, V(bytes) four[4])
{
    __m512i fifths = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(w + 128)));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        int64_t bit = 1LL << (i % 2 ? 32 + i : 24 + i), upper = bit << 4; /* of each byte, i or i + 4 becomes 3 or 4 */
        __m512i to = _mm512_setr_epi64(bit, bit, bit, bit, upper, upper, upper, upper);
        __m512i others = _mm512_set1_epi8(i % 2 ? (char)0xf0 : 0x0f);
        to = _mm512_gf2p8affine_epi64_epi8(fifths, to, 0);
        four[i] = (V(bytes))_mm512_ternarylogic_epi64((__m512i)V(load)(w + i / 2 * 64), others, to, 0xea); /* a & b | c */
    }
}
#endif

/* `sums` (streams, width) of one tile's integer weights. All but w, inputs and x are constants where this is expanded. */
INLINE void V(dots)(int streams, int width, int bits, const uint8_t *w, int inputs, const int8_t *const *x, Ahead *ahead,
                    ints (*sums)[MOST_WIDTH])
{
    /* One stream alone has two chains of sums, so that no dot product need wait for the one before it. */
    V(sums) sum[V(CHAINS)][V(STREAMS)][MOST_WIDTH][V(PARTS)];
    int chains = streams == 1 ? V(CHAINS) : 1, times_8 = 0;
#if defined(WITH_GFNI)
    times_8 = bits == 5 && width % 2 == 0; /* of odd vectors */
#endif
#pragma GCC unroll 2
    for (int chain = 0; chain < chains; chain++)
#pragma GCC unroll 4
        for (int s = 0; s < streams; s++)
#pragma GCC unroll 16
            for (int i = 0; i < width * V(PARTS); i++)
                sum[chain][s][i / V(PARTS)][i % V(PARTS)] = (V(sums)){0};
    for (int k = 0; k < inputs; k += 4 * GROUP) {
        fetch(ahead, FETCHED);
#pragma GCC unroll 4
        for (int quad = 0; quad < width; quad++) {
#pragma GCC unroll 4
            for (int part = 0; part < V(PARTS); part++) {
                V(bytes) weights[4];
#if defined(WITH_GFNI)
                if (times_8)
                    V(unpack_times_8)(w, weights);
                else
#endif
                    V(unpack)(w, bits, part, weights);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    int group = (4 * quad + i) / width, v = (4 * quad + i) % width;
#pragma GCC unroll 4
                    for (int s = 0; s < streams; s++) {
                        int32_t four;
                        memcpy(&four, x[s] + k + group * GROUP, sizeof four);
                        V(sums) *at = &sum[group % chains][s][v][part];
                        *at = V(dot)(*at, weights[i], four);
                    }
                }
            }
            w += 4 * 8 * (bits == 7 ? 8 : bits);
        }
    }
#pragma GCC unroll 4
    for (int s = 0; s < streams; s++) {
#pragma GCC unroll 16
        for (int i = 0; i < width * V(PARTS); i++) {
            V(sums) all = sum[0][s][i / V(PARTS)][i % V(PARTS)];
            if (chains == 2)
                all += sum[chains - 1][s][i / V(PARTS)][i % V(PARTS)];
            if (times_8 && i / V(PARTS) % 2)
                all >>= 3;
            memcpy((char *)sums[s] + i * V(BYTES), &all, sizeof all);
        }
    }
}

#if defined(WITH_AMX)
enum { V(DEPTH) = 64 };            /* inputs that a tile register takes: bytes in one of its 16 rows */

/* Shapes of the processor's tile registers for so many inputs: 0 to 3 are sums (streams, rows of weights), 4 and 5 take inputs of
 * all streams and 6 and 7 their weights, the second of each what is left after every 64. */
static void V(shape_tiles)(int inputs)
{
    struct {
        uint8_t palette, first, unused[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    int left = inputs % V(DEPTH) ? inputs % V(DEPTH) : V(DEPTH);
    for (int i = 0; i < 8; i++) {
        shapes.bytes[i] = (uint16_t)(i == 5 ? left : 64);
        shapes.rows[i] = (uint8_t)(i == 7 ? left / GROUP : 16);
    }
    _tile_loadconfig(&shapes);
}

/* What `dots` gives, for 16 streams whose inputs lie `size` bytes apart and weights of a byte. */
INLINE void V(dots_of_many)(int width, const uint8_t *w, int inputs, const int8_t *x, int64_t size, ints (*sums)[MOST_WIDTH])
{
    const int row = width * 64;
    __asm__ volatile("" ::: "memory"); /* GCC's tile instructions do not say that they read and write memory */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
#define ADD(v, bytes, weights)                     \
    if (v < width) {                               \
        _tile_loadd(weights, w + v * 64, row);     \
        _tile_dpbsud(v, bytes, weights);           \
    }
    for (; inputs >= V(DEPTH); inputs -= V(DEPTH), x += V(DEPTH), w += V(DEPTH) / GROUP * row) {
        _tile_loadd(4, x, size);
        ADD(0, 4, 6)
        ADD(1, 4, 6)
        ADD(2, 4, 6)
        ADD(3, 4, 6)
    }
    if (inputs) {
        _tile_loadd(5, x, size);
        ADD(0, 5, 7)
        ADD(1, 5, 7)
        ADD(2, 5, 7)
        ADD(3, 5, 7)
    }
#undef ADD
    _tile_stored(0, &sums[0][0], sizeof sums[0]);
    _tile_stored(1, &sums[0][1], sizeof sums[0]);
    _tile_stored(2, &sums[0][2], sizeof sums[0]);
    _tile_stored(3, &sums[0][3], sizeof sums[0]);
    __asm__ volatile("" ::: "memory");
}
#endif

/* The same for weights that are numbers; `sums` (streams, width). Each input adds to the sum of its parity. */
INLINE void V(number_dots)(int streams, int width, int format, const uint8_t *w, int inputs, const float *const *x,
                           floats (*sums)[MOST_WIDTH])
{
    floats sum[2][V(STREAMS)][MOST_WIDTH] = {0};
    for (int k = 0; k < inputs; k += 2) {
        floats weights[2][MOST_WIDTH];
        for (int v = 0; v < width; v++) {
            if (format == FP32) {
                weights[0][v] = ((const floats *)w)[v];
                weights[1][v] = ((const floats *)w)[width + v];
            } else {
                ints pair = ((const ints *)w)[v];
                weights[0][v] = (floats)(pair << 16);
                weights[1][v] = (floats)(pair & (int32_t)0xffff0000);
            }
        }
        w += (format == FP32 ? 2 : 1) * width * (int)sizeof(floats);
#pragma GCC unroll 4
        for (int s = 0; s < streams; s++)
#pragma GCC unroll 4
            for (int v = 0; v < width; v++) {
                sum[0][s][v] += weights[0][v] * x[s][k];
                sum[1][s][v] += weights[1][v] * x[s][k + 1];
            }
    }
    for (int s = 0; s < streams; s++)
        for (int v = 0; v < width; v++)
            sums[s][v] = sum[0][s][v] + sum[1][s][v];
}

/* One tile's rows of some streams, from stream `s` on, to `out`, which lies `rows` apart from stream to stream. */
INLINE void V(tile)(int streams, int width, int format, const Matrix *m, int64_t tile, const uint8_t *w,
                    const Vectors *x, int64_t s, Ahead *ahead, float *out, int64_t rows)
{
    int64_t first = tile * width * LANES;
    out += s * rows + first;
    if (format <= BF16) {
        const float *numbers[V(STREAMS)];
        floats sums[V(STREAMS)][MOST_WIDTH];
        for (int i = 0; i < streams; i++)
            numbers[i] = x->numbers + (s + i) * x->size;
        V(number_dots)(streams, width, format, w, m->inputs, numbers, sums);
        for (int i = 0; i < streams; i++)
            memcpy(out + i * rows, sums[i], (size_t)width * sizeof(floats));
        return;
    }
    ints sums[V(MANY)][MOST_WIDTH];
#if defined(WITH_AMX)
    if (streams == V(MANY))
        V(dots_of_many)(width, w, m->inputs, x->bytes + s * x->size, x->size, sums);
    else
#endif
    {
        const int8_t *bytes[V(STREAMS)];
        for (int i = 0; i < streams; i++)
            bytes[i] = x->bytes + (s + i) * x->size;
        V(dots)(streams, width, format, w, m->inputs, bytes, ahead, sums);
    }
    for (int i = 0; i < streams; i++) {
        int32_t middle = x->sum[s + i] * (1 << (m->format - 1)); /* what weights of zero add, being in the middle */
        for (int v = 0; v < width; v++) {
            floats scale = *(const floats *)(m->scale + first + v * LANES) * x->unit[s + i];
            *(floats *)(out + i * rows + v * LANES) = __builtin_convertvector(sums[i][v] - middle, floats) * scale;
        }
    }
}

INLINE void V(tile_of_width)(int width, int format, const Matrix *m, int64_t tile, const uint8_t *w, const Vectors *x,
                             int64_t streams, Ahead *ahead, float *out, int64_t rows)
{
    int64_t s = 0;
    if (format == 7 && V(MANY) > V(STREAMS))
        for (; s + V(MANY) <= streams; s += V(MANY))
            V(tile)(V(MANY), width, format, m, tile, w, x, s, ahead, out, rows);
    for (; s + V(STREAMS) <= streams; s += V(STREAMS))
        V(tile)(V(STREAMS), width, format, m, tile, w, x, s, ahead, out, rows);
    for (; V(STREAMS) > 1 && s < streams; s++)
        V(tile)(1, width, format, m, tile, w, x, s, ahead, out, rows);
}

INLINE void V(tile_of_format)(int format, const Matrix *m, int64_t tile, const uint8_t *w, const Vectors *x,
                              int64_t streams, Ahead *ahead, float *out, int64_t rows)
{
    switch (m->width) {
    case 1: V(tile_of_width)(1, format, m, tile, w, x, streams, ahead, out, rows); break;
    case 2: V(tile_of_width)(2, format, m, tile, w, x, streams, ahead, out, rows); break;
    case 3: V(tile_of_width)(3, format, m, tile, w, x, streams, ahead, out, rows); break;
    default: V(tile_of_width)(4, format, m, tile, w, x, streams, ahead, out, rows);
    }
}

/* This thread's share of a count: where it begins (0), and where it ends (1). */
INLINE int64_t V(share)(const Thread *t, int64_t count, int end)
{
    return count * (t->number + end) / t->shared->threads;
}

/* This thread's rows of a matrix times the vectors of all streams, to `out` (streams, rows). */
static void V(product)(Thread *t, const Matrix *m, const Vectors *x, float *out)
{
    Ahead *ahead = &t->ahead;
    int64_t streams = t->shared->work->streams, tiles = m->vectors / m->width, rows = rows_of(m);
    int64_t weights = (int64_t)m->width * LANES * m->inputs, size = weights * stored_bits(m->format) / 8;
#if defined(WITH_AMX)
    int in_tiles = m->format > BF16 && streams >= V(MANY);
    if (in_tiles)
        V(shape_tiles)(m->inputs);
#endif
    for (int64_t tile = V(share)(t, tiles, 0); tile < V(share)(t, tiles, 1); tile++) {
        const uint8_t *w = m->weights + tile * size;
        int format = m->format;
        if (format > BF16 && format < 7 && streams > V(STREAMS)) { /* unpacked once for all of them */
            for (int64_t quad = 0; quad < weights / 256; quad++)
                for (int part = 0; part < V(PARTS); part++) {
                    V(bytes) four[4];
                    V(unpack)(w + quad * 32 * format, format, part, four);
                    for (int i = 0; i < 4; i++)
                        memcpy(t->unpacked + quad * 256 + i * 64 + part * V(BYTES), four + i, V(BYTES));
                }
            w = t->unpacked;
            format = 7;
        }
        switch (format) {
        case FP32: V(tile_of_format)(FP32, m, tile, w, x, streams, ahead, out, rows); break;
        case BF16: V(tile_of_format)(BF16, m, tile, w, x, streams, ahead, out, rows); break;
        case 4: V(tile_of_format)(4, m, tile, w, x, streams, ahead, out, rows); break;
        case 5: V(tile_of_format)(5, m, tile, w, x, streams, ahead, out, rows); break;
        case 6: V(tile_of_format)(6, m, tile, w, x, streams, ahead, out, rows); break;
        default: V(tile_of_format)(7, m, tile, w, x, streams, ahead, out, rows);
        }
    }
#if defined(WITH_AMX)
    if (in_tiles)
        _tile_release();
#endif
}

/* -- what is between the products ------------------------------------------------------------ */

/* Take numbers (streams, size) as a matrix of a format does: as they are, or as bytes of which 127 is the largest. */
static void V(take_in)(Vectors *v, const float *numbers, int64_t streams, int32_t size, int format)
{
    v->size = size;
    if (format <= BF16) {
        memcpy(v->numbers, numbers, sizeof(float) * (size_t)(streams * size));
        return;
    }
    for (int64_t s = 0; s < streams; s++, numbers += size) {
        floats most = {0};
        ints sum = {0};
        for (int32_t k = 0; k < size; k += LANES) {
            floats x = (floats)(*(const ints *)(numbers + k) & 0x7fffffff);
            most = V(where)(x > most, x, most);
        }
        for (int lane = 1; lane < LANES; lane++)
            most[0] = most[lane] > most[0] ? most[lane] : most[0];
        float unit = most[0] / 127, over = most[0] > 0 ? 127 / most[0] : 0;
        for (int32_t k = 0; k < size; k += LANES) {
            ints x = __builtin_convertvector((*(const floats *)(numbers + k) * over + 12582912.0f) - 12582912.0f, ints);
            typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1)));
            *(bytes *)(v->bytes + s * size + k) = __builtin_convertvector(x, bytes);
            sum += x;
        }
        v->unit[s] = unit;
        v->sum[s] = 0;
        for (int lane = 0; lane < LANES; lane++)
            v->sum[s] += sum[lane];
    }
}

/* Layer normalisation (Ba, Kiros and Hinton 2016) of x (streams, size), of which the first `normed` count. */
static void V(normalise)(const Layer *layer, const float *x, int64_t streams, float *y)
{
    int32_t size = layer->outputs;
    float n = (float)layer->normed, beyond = (float)(size - layer->normed);
    for (int64_t s = 0; s < streams; s++, x += size, y += size) {
        floats sum = {0}, squares = {0};
        for (int32_t k = 0; k < size; k += LANES)
            sum += *(const floats *)(x + k);
        float mean = V(total)(sum) / n;
        for (int32_t k = 0; k < size; k += LANES) {
            floats d = *(const floats *)(x + k) - mean;
            squares += d * d;
        }
        float variance = (V(total)(squares) - beyond * mean * mean) / n; /* what lies beyond is 0 */
        float over = 1 / sqrtf((variance > 0 ? variance : 0) + layer->epsilon);
        for (int32_t k = 0; k < size; k += LANES)
            *(floats *)(y + k) = (*(const floats *)(x + k) - mean) * over * *(const floats *)(layer->gain + k) +
                                 *(const floats *)(layer->offset + k);
    }
}

/* The symbol that a stream reads at a step. */
INLINE int64_t V(symbol)(const Work *work, int64_t s, int64_t step)
{
    return work->forced && step ? work->forced[s * work->steps + step - 1] : work->last[s];
}

/* This thread's units of a layer, from the products with its input and with its state. */
static void V(update)(Thread *t, int l, int64_t step)
{
    const Shared *shared = t->shared;
    const Work *work = shared->work;
    const Layer *layer = shared->network->layer + l;
    const Matrix *m = &layer->recurrent;
    const float *table = l ? NULL : shared->network->table;
    int cell = layer->cell, gates = cell == GRU ? 3 : cell == RNN ? 1 : 4;
    int64_t rows = rows_of(m), tiles = m->vectors / m->width;
    int64_t from = V(share)(t, tiles, 0) * m->width / gates, to = V(share)(t, tiles, 1) * m->width / gates;
    for (int64_t s = 0; s < work->streams; s++) {
        const float *input = table ? table + V(symbol)(work, s, step) * rows : shared->input + s * rows;
        const float *recurrent = shared->recurrent[l] + s * rows;
        float *h = (cell == LSTMP ? shared->hidden : work->h[l]) + s * layer->units;
        for (int64_t block = from; block < to; block++) {
            fetch(&t->ahead, FETCHED_AT_ONCE);
            floats in[MOST_WIDTH], back[MOST_WIDTH];
            for (int g = 0; g < gates; g++) {
                int64_t row = (block * gates + g) * LANES;
                in[g] = *(const floats *)(input + row);
                if (!table)
                    in[g] += *(const floats *)(layer->bias + row);
                back[g] = *(const floats *)(recurrent + row);
                if (cell == GRU)
                    back[g] += *(const floats *)(layer->recurrent_bias + row);
            }
            floats *new = (floats *)(h + block * LANES);
            if (cell == GRU) {
                floats r = V(sigmoid)(in[0] + back[0]), z = V(sigmoid)(in[1] + back[1]);
                floats n = V(tanh)(in[2] + r * back[2]);
                *new = (1.0f - z) * n + z * *new;
            } else if (cell == RNN) {
                *new = V(tanh)(in[0] + back[0]);
            } else {
                floats *c = (floats *)(work->c[l] + s * layer->units + block * LANES);
                *c = V(sigmoid)(in[1] + back[1]) * *c + V(sigmoid)(in[0] + back[0]) * V(tanh)(in[2] + back[2]);
                *new = V(sigmoid)(in[3] + back[3]) * V(tanh)(*c);
            }
        }
    }
}

/* Draw or score a stream's next symbol from its logits, which become probabilities times a number. */
static void V(choose)(const Shared *shared, int64_t s, int64_t step)
{
    const Work *work = shared->work;
    int64_t padded = rows_of(&shared->network->output), vocab = shared->network->vocab, id = 0;
    float *logits = shared->logits + s * padded;
    floats most = (floats){0} - 3.4e38f;
    for (int64_t i = 0; i < padded; i += LANES) {
        floats x = *(floats *)(logits + i) + *(const floats *)(shared->network->output_bias + i);
        *(floats *)(logits + i) = x;
        most = V(where)(x > most, x, most);
    }
    for (int lane = 1; lane < LANES; lane++)
        most[0] = most[lane] > most[0] ? most[lane] : most[0];
    if (!work->forced && work->temperature <= 0) {
        while (id < vocab - 1 && logits[id] != most[0])
            id++;
    } else {
        double forced = work->forced ? (double)logits[work->forced[s * work->steps + step]] - most[0] : 0;
        float over = work->forced ? 1 : work->temperature < 1e-30 ? 1e30f : (float)(1 / work->temperature);
        doubles sums = {0};
        for (int64_t i = 0; i < padded; i += LANES) {
            floats x = V(exp)((*(floats *)(logits + i) - most[0]) * over);
            *(floats *)(logits + i) = x;
            sums += __builtin_convertvector(x, doubles);
        }
        double total = 0;
        for (int lane = 0; lane < LANES; lane++)
            total += sums[lane];
        if (work->forced) {
            work->scores[s * work->steps + step] = forced - log(total);
            return;
        }
        double border = work->u[step * work->streams + s] * total, sum = logits[0];
        while (id < vocab - 1 && !(sum > border))
            sum += logits[++id];
    }
    work->last[s] = work->ids[s * work->steps + step] = id;
}

/* -- the steps ------------------------------------------------------------ */

INLINE void V(meet)(Thread *t)
{
    t->goal += t->shared->threads;
    arrive(&t->shared->counter);
    wait_for(&t->shared->counter, t->goal);
}

/* Let what is at hand fetch this thread's rows of a matrix that it will take soon. */
INLINE void V(look_ahead)(Thread *t, const Matrix *m)
{
    int64_t tiles = m->vectors / m->width, size = (int64_t)m->width * LANES * m->inputs * stored_bits(m->format) / 8;
    t->ahead = (Ahead){m->weights + V(share)(t, tiles, 0) * size, m->weights + V(share)(t, tiles, 1) * size};
}

/* What layer l hands on, once all threads have computed their units of it. */
static const Vectors *V(hand_on)(Thread *t, int l)
{
    const Network *network = t->shared->network;
    const Layer *layer = network->layer + l;
    const float *h = t->shared->work->h[l];
    int64_t streams = t->shared->work->streams;
    int itself = layer->recurrent.format, next = l + 1 < network->layers ? layer[1].input.format : network->output.format;
    V(take_in)(&t->h[l], h, streams, layer->outputs, itself);
    if (!layer->normed && (itself <= BF16) == (next <= BF16))
        return &t->h[l];
    if (layer->normed) {
        V(normalise)(layer, h, streams, t->normed);
        h = t->normed;
    }
    V(take_in)(&t->x, h, streams, layer->outputs, next);
    return &t->x;
}

/* The first layer's input, where it is no row of a table. */
static const Vectors *V(embed)(Thread *t, int64_t step)
{
    const Network *network = t->shared->network;
    const Work *work = t->shared->work;
    int32_t size = network->embedding_size;
    for (int64_t s = 0; s < work->streams; s++)
        memcpy(t->normed + s * size, network->embedding + V(symbol)(work, s, step) * size, sizeof(float) * (size_t)size);
    V(take_in)(&t->x, t->normed, work->streams, size, network->layer[0].input.format);
    return &t->x;
}

/* All steps, as one of the threads.
 *
 * A layer's product with its state can be had as late as the step that takes it, or as soon as that state is there, a
 * step earlier. Every other step has it late and, once the threads have met, at once again for the step to come: its
 * weights are read twice in a row, the second time from the core's own cache, and the next step has none to read.
 */
static void V(run)(Thread *t)
{
    const Network *network = t->shared->network;
    const Work *work = t->shared->work;
    int depth = network->layers, ready = 0;
    for (int l = 0; l < depth; l++)
        V(take_in)(&t->h[l], work->h[l], work->streams, network->layer[l].outputs, network->layer[l].recurrent.format);
    V(meet)(t);
    for (int64_t step = 0; step < work->steps; step++) {
        int late = !ready;
        ready = late && step + 1 < work->steps;
        const Vectors *x = network->table ? NULL : V(embed)(t, step);
        for (int l = 0; l < depth; l++) {
            const Layer *layer = network->layer + l;
            if (x)
                V(product)(t, &layer->input, x, t->shared->input);
            if (late)
                V(product)(t, &layer->recurrent, &t->h[l], t->shared->recurrent[l]);
            const Matrix *next = l + 1 < depth ? &layer[1].input : &network->output;
            V(look_ahead)(t, late ? &layer->recurrent : next);
            V(update)(t, l, step);
            t->ahead = (Ahead){0};
            if (layer->cell == LSTMP) {
                V(meet)(t);
                V(take_in)(&t->x, t->shared->hidden, work->streams, layer->units, layer->projection.format);
                V(product)(t, &layer->projection, &t->x, work->h[l]);
            }
            V(meet)(t);
            x = V(hand_on)(t, l);
            if (ready) {
                V(look_ahead)(t, next);
                V(product)(t, &layer->recurrent, &t->h[l], t->shared->recurrent[l]);
                t->ahead = (Ahead){0};
            }
        }
        if (work->y && t->number == 0) {
            const Layer *last = network->layer + depth - 1;
            for (int64_t s = 0; s < work->streams; s++)
                memcpy(work->y + (s * work->steps + step) * last->outputs, work->h[depth - 1] + s * last->outputs,
                       sizeof(float) * (size_t)last->outputs);
        }
        if (!work->forced || work->scores) {
            V(product)(t, &network->output, x, t->shared->logits);
            V(meet)(t);
            for (int64_t s = t->number; s < work->streams; s += t->shared->threads)
                V(choose)(t->shared, s, step);
        }
        V(meet)(t);
    }
}
