/* Unpacking of weights, and dot products of one tile with the inputs of some streams. */

/* Streams are computed LARGE_BLOCK at a time while there are as many, then BLOCK at a time, then one by one. One stream
 * alone has CHAINS sums, so that no dot product has to wait for the one before it. PASS is the number of registers of a
 * vector that are computed at a time, so that a processor has enough of them for the sums. */
#if defined(WITH_AMX)
enum { V(LARGE_BLOCK) = 16, V(BLOCK) = 4, V(CHAINS) = 2, V(PASS) = V(PARTS) };
#elif defined(WITH_AVX512)
enum { V(LARGE_BLOCK) = 4, V(BLOCK) = 4, V(CHAINS) = 2, V(PASS) = V(PARTS) };
#elif defined(__wasm__)
enum { V(LARGE_BLOCK) = 1, V(BLOCK) = 1, V(CHAINS) = 1, V(PASS) = 2 };
#else
enum { V(LARGE_BLOCK) = 1, V(BLOCK) = 1, V(CHAINS) = 1, V(PASS) = V(PARTS) };
#endif

typedef uint16_t V(bytes) __attribute__((vector_size(V(REGISTER)))); /* of 16 bits, as there are no shifts of bytes */

/* Add to each 32-bit sum the products of four weights and four inputs. */
INLINE V(integers) V(dot)(V(integers) sum, V(bytes) w, int32_t four)
{
#if defined(WITH_AVX512)
    return (V(integers))_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, _mm512_set1_epi32(four));
#elif defined(WITH_AVXVNNI)
    return (V(integers))_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, _mm256_set1_epi32(four));
#elif defined(WITH_AVX2)
    /* Two products of at most 127 * 127 fit in 16 bits, so a weight may have at most 7 bits. */
    __m256i pairs = _mm256_maddubs_epi16((__m256i)w, _mm256_set1_epi32(four));
    sum += (V(integers))_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    __asm__("" : "+x"(sum)); /* GCC would add the products of several groups first, and run out of registers */
    return sum;
#elif defined(WITH_NEON)
    return (V(integers))vdotq_s32((int32x4_t)sum, (int8x16_t)w, vreinterpretq_s8_s32(vdupq_n_s32(four)));
#elif defined(__wasm_relaxed_simd__)
    /* As with AVX2, no product or sum of two reaches the limits beyond which the instruction's result is not defined. */
    return (V(integers))wasm_i32x4_relaxed_dot_i8x16_i7x16_add(wasm_i32x4_splat(four), (v128_t)w, (v128_t)sum);
#elif defined(__wasm__)
    v128_t x = wasm_i16x8_extend_low_i8x16(wasm_i32x4_splat(four));
    v128_t low = wasm_i32x4_dot_i16x8(wasm_u16x8_extend_low_u8x16((v128_t)w), x); /* two sums per row */
    v128_t high = wasm_i32x4_dot_i16x8(wasm_u16x8_extend_high_u8x16((v128_t)w), x);
    v128_t even = wasm_i32x4_shuffle(low, high, 0, 2, 4, 6), odd = wasm_i32x4_shuffle(low, high, 1, 3, 5, 7);
    return sum + (V(integers))wasm_i32x4_add(even, odd);
#else
    int8_t x[GROUP];
    uint8_t weights[sizeof w];
    memcpy(x, &four, sizeof x);
    memcpy(weights, &w, sizeof w);
    for (int row = 0; row < V(REGISTER) / GROUP; row++)
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

/* Return the fifth bits of four vectors in the lower four bits of each byte of a part. Of the 64 bytes of a vector, the
 * first 32 have theirs in the lower halves of 32 bytes, and the others in the upper halves. */
INLINE V(bytes) V(fifth_bits)(const uint8_t *w, int part)
{
#if defined(WITH_AVX512)
    __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)w));
    (void)part;
    return (V(bytes))_mm512_mask_srli_epi64(both, 0xf0, both, 4);
#else
    return V(load)(w + part * V(REGISTER) % 32) >> (part * V(REGISTER) / 32 * 4);
#endif
}

/* Unpack a part of four vectors to one byte per weight; store_integer in pack.h has the layout. */
INLINE void V(unpack)(const uint8_t *w, int bits, int part, V(bytes) four[4])
{
    w += part * V(REGISTER);
    if (bits == 4) {
        V(bytes) a = V(load)(w), b = V(load)(w + 64);
        four[0] = a & 0x0f0f, four[1] = a >> 4 & 0x0f0f, four[2] = b & 0x0f0f, four[3] = b >> 4 & 0x0f0f;
    } else if (bits == 5) {
        V(bytes) a = V(load)(w), b = V(load)(w + 64), high = V(fifth_bits)(w + 128 - part * V(REGISTER), part);
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
/* Unpack four vectors of 5 bits by two instructions each. An 8 x 8 bit matrix moves a vector's fifth bits to their
 * position, and the other four bits stay where they are stored. So the second and the fourth vector are times 8. */
INLINE void V(unpack_times_8)(const uint8_t *w, V(bytes) four[4])
{
    __m512i fifths = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(w + 128)));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        int64_t bit = 1LL << (i % 2 ? 32 + i : 24 + i), upper = bit << 4; /* bit i or i + 4 of a byte becomes 3 or 4 */
        __m512i to = _mm512_setr_epi64(bit, bit, bit, bit, upper, upper, upper, upper);
        __m512i others = _mm512_set1_epi8(i % 2 ? (char)0xf0 : 0x0f);
        to = _mm512_gf2p8affine_epi64_epi8(fifths, to, 0);
        four[i] = (V(bytes))_mm512_ternarylogic_epi64((__m512i)V(load)(w + i / 2 * 64), others, to, 0xea); /* a & b | c */
    }
}
#endif

/* Compute `sums` (streams, width) of one tile's integer weights. All arguments but w, inputs and x are constants where
 * this is inlined.
 *
 * A tile has `width` vectors of rows. A quad is four registers of weights, and each holds one group of inputs for one
 * vector: register i of quad q is group (4 q + i) / width and vector (4 q + i) % width. `part` counts the registers of
 * a vector on processors with narrower ones, of which PASS are computed at a time. With one stream, even and odd groups
 * are added to two chains of sums, which do not wait for each other. */
INLINE void V(integer_dots)(int streams, int width, int bits, const uint8_t *w, int inputs, const int8_t *const *x,
                            Prefetch *next, ints (*sums)[MAX_WIDTH])
{
    int chains = streams == 1 ? V(CHAINS) : 1, times_8 = 0;
#if defined(WITH_GFNI)
    times_8 = bits == 5 && width % 2 == 0; /* of odd vectors */
#endif
#pragma GCC unroll 1
    for (int first = 0; first < V(PARTS); first += V(PASS)) {
        V(integers) sum[V(CHAINS)][V(BLOCK)][MAX_WIDTH][V(PASS)];
        const uint8_t *at = w;
#pragma GCC unroll 2
        for (int chain = 0; chain < chains; chain++)
#pragma GCC unroll 4
            for (int s = 0; s < streams; s++)
#pragma GCC unroll 16
                for (int i = 0; i < width * V(PASS); i++)
                    sum[chain][s][i / V(PASS)][i % V(PASS)] = (V(integers)){0};
        for (int k = 0; k < inputs; k += 4 * GROUP) {
            prefetch(next, PREFETCH_IN_PRODUCT);
#pragma GCC unroll 4
            for (int quad = 0; quad < width; quad++) {
#pragma GCC unroll 4
                for (int part = 0; part < V(PASS); part++) {
                    V(bytes) weights[4];
#if defined(WITH_GFNI)
                    if (times_8)
                        V(unpack_times_8)(at, weights);
                    else
#endif
                        V(unpack)(at, bits, first + part, weights);
#pragma GCC unroll 4
                    for (int i = 0; i < 4; i++) {
                        int group = (4 * quad + i) / width, v = (4 * quad + i) % width;
#pragma GCC unroll 4
                        for (int s = 0; s < streams; s++) {
                            int32_t four;
                            memcpy(&four, x[s] + k + group * GROUP, sizeof four);
                            V(integers) *to = &sum[group % chains][s][v][part];
                            *to = V(dot)(*to, weights[i], four);
                        }
                    }
                }
                at += 4 * 8 * (bits == 7 ? 8 : bits);
            }
        }
#pragma GCC unroll 4
        for (int s = 0; s < streams; s++) {
#pragma GCC unroll 16
            for (int i = 0; i < width * V(PASS); i++) {
                int v = i / V(PASS), part = i % V(PASS);
                V(integers) all = sum[0][s][v][part];
                if (chains == 2)
                    all += sum[chains - 1][s][v][part];
                if (times_8 && v % 2)
                    all >>= 3;
                memcpy((char *)(sums[s] + v) + (first + part) * V(REGISTER), &all, sizeof all);
            }
        }
    }
}

#if defined(WITH_AMX)
enum { V(DEPTH) = 64 }; /* inputs per tile register: bytes of one of its 16 rows */

/* Configure the processor's tile registers. 0 to 3 are sums (streams, rows of weights). 4 and 5 are inputs of all
 * streams, 6 and 7 weights; 5 and 7 are for the inputs that remain after every 64. */
static void V(configure_tiles)(int inputs)
{
    struct {
        uint8_t palette, first, unused[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    int rest = inputs % V(DEPTH) ? inputs % V(DEPTH) : V(DEPTH);
    for (int i = 0; i < 8; i++) {
        shapes.bytes[i] = (uint16_t)(i == 5 ? rest : 64);
        shapes.rows[i] = (uint8_t)(i == 7 ? rest / GROUP : 16);
    }
    _tile_loadconfig(&shapes);
}

/* Compute the same as integer_dots, for 16 streams whose inputs are `size` bytes apart, and weights of one byte. */
INLINE void V(amx_dots)(int width, const uint8_t *w, int inputs, const int8_t *x, int64_t size, ints (*sums)[MAX_WIDTH])
{
    const int row = width * 64;
    __asm__ volatile("" ::: "memory"); /* GCC cannot infer that its tile instructions read and write memory */
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

/* Compute `sums` (streams, width) of `count` registers of one tile's float weights, of which `w` is the first. Inputs
 * with an even and with an odd index have a sum each. */
INLINE void V(float_dots_of)(int count, int streams, int width, int format, const uint8_t *w, int inputs,
                             const float *const *x, floats (*sums)[MAX_WIDTH])
{
    const int step = width * (int)sizeof(floats);
    V(values) sum[2][V(BLOCK)][MAX_WIDTH] = {0};
    for (int k = 0; k < inputs; k += 2, w += format == FP32 ? 2 * step : step) {
#pragma GCC unroll 4
        for (int i = 0; i < count; i++) {
            const uint8_t *at = w + i * V(REGISTER);
            V(values) even, odd;
            if (format == FP32) {
                memcpy(&even, at, sizeof even);
                memcpy(&odd, at + step, sizeof odd);
            } else {
                V(integers) pair;
                memcpy(&pair, at, sizeof pair);
                even = (V(values))(pair << 16);
                odd = (V(values))(pair & (int32_t)0xffff0000);
            }
#pragma GCC unroll 4
            for (int s = 0; s < streams; s++) {
                sum[0][s][i] += even * x[s][k];
                sum[1][s][i] += odd * x[s][k + 1];
            }
        }
    }
    for (int s = 0; s < streams; s++)
        for (int i = 0; i < count; i++) {
            V(values) both = sum[0][s][i] + sum[1][s][i];
            memcpy((char *)sums[s] + i * V(REGISTER), &both, sizeof both);
        }
}

/* Compute `sums` (streams, width) of one tile's float weights, as many registers at a time as a processor can hold. */
INLINE void V(float_dots)(int streams, int width, int format, const uint8_t *w, int inputs, const float *const *x,
                          floats (*sums)[MAX_WIDTH])
{
    if (V(PARTS) == 1) {
        V(float_dots_of)(width, streams, width, format, w, inputs, x, sums);
        return;
    }
    int i = 0;
    for (; i + 4 <= width * V(PARTS); i += 4)
        V(float_dots_of)(4, streams, width, format, w + i * V(REGISTER), inputs, x,
                         (floats(*)[MAX_WIDTH])((char *)sums + i * V(REGISTER)));
    if (i < width * V(PARTS))
        V(float_dots_of)(2, streams, width, format, w + i * V(REGISTER), inputs, x,
                         (floats(*)[MAX_WIDTH])((char *)sums + i * V(REGISTER)));
}
