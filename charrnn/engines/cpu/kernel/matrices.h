/* Products of a matrix with the vectors of all streams, and the conversion of these vectors. */

/* Compute one tile's rows of streams s, s + 1, ... The outputs of two streams are `rows` apart. */
INLINE void V(tile)(int streams, int width, int format, const Matrix *m, int64_t tile, const uint8_t *w,
                    const Vectors *x, int64_t s, Prefetch *next, float *out, int64_t rows)
{
    int64_t first = tile * width * LANES;
    out += s * rows + first;
    if (format <= BF16) {
        const float *values[V(BLOCK)];
        floats sums[V(BLOCK)][MAX_WIDTH];
        for (int i = 0; i < streams; i++)
            values[i] = x->values + (s + i) * x->size;
        V(float_dots)(streams, width, format, w, m->inputs, values, sums);
        for (int i = 0; i < streams; i++)
            memcpy(out + i * rows, sums[i], (size_t)width * sizeof(floats));
        return;
    }
    ints sums[V(LARGE_BLOCK)][MAX_WIDTH];
#if defined(WITH_AMX)
    if (streams == V(LARGE_BLOCK))
        V(amx_dots)(width, w, m->inputs, x->bytes + s * x->size, x->size, sums);
    else
#endif
    {
        const int8_t *bytes[V(BLOCK)];
        for (int i = 0; i < streams; i++)
            bytes[i] = x->bytes + (s + i) * x->size;
        V(integer_dots)(streams, width, format, w, m->inputs, bytes, next, sums);
    }
    for (int i = 0; i < streams; i++) {
        int32_t zero = x->sum[s + i] * (1 << (m->format - 1)); /* sum of a row of weights of 0, stored as the middle */
        for (int part = 0; part < width * V(PARTS); part++) {
            int at = part * V(REGISTER) / (int)sizeof(float);
            V(integers) sum;
            V(values) scale, product;
            memcpy(&sum, (const char *)sums[i] + part * V(REGISTER), sizeof sum);
            memcpy(&scale, m->scale + first + at, sizeof scale);
            product = __builtin_convertvector(sum - zero, V(values)) * (scale * x->scale[s + i]);
            memcpy(out + i * rows + at, &product, sizeof product);
        }
    }
}

INLINE void V(tile_of_width)(int width, int format, const Matrix *m, int64_t tile, const uint8_t *w, const Vectors *x,
                             int64_t streams, Prefetch *next, float *out, int64_t rows)
{
    int64_t s = 0;
    if (format == 7 && V(LARGE_BLOCK) > V(BLOCK))
        for (; s + V(LARGE_BLOCK) <= streams; s += V(LARGE_BLOCK))
            V(tile)(V(LARGE_BLOCK), width, format, m, tile, w, x, s, next, out, rows);
    for (; s + V(BLOCK) <= streams; s += V(BLOCK))
        V(tile)(V(BLOCK), width, format, m, tile, w, x, s, next, out, rows);
    for (; V(BLOCK) > 1 && s < streams; s++)
        V(tile)(1, width, format, m, tile, w, x, s, next, out, rows);
}

INLINE void V(tile_of_format)(int format, const Matrix *m, int64_t tile, const uint8_t *w, const Vectors *x,
                              int64_t streams, Prefetch *next, float *out, int64_t rows)
{
    switch (m->width) {
    case 1: V(tile_of_width)(1, FP32, m, tile, w, x, streams, next, out, rows); break;
    case 3: V(tile_of_width)(3, format, m, tile, w, x, streams, next, out, rows); break;
    default: V(tile_of_width)(4, format, m, tile, w, x, streams, next, out, rows);
    }
}

/* Return where this thread's share of a count begins (end 0), and where it ends (end 1). */
INLINE int64_t V(share)(const Thread *t, int64_t count, int end)
{
    return count * (t->index + end) / t->shared->threads;
}

/* Prefetch this thread's rows of a matrix during the next computation. */
INLINE void V(start_prefetch)(Thread *t, const Matrix *m)
{
    int64_t tiles = m->vectors / m->width, size = tile_bytes(m);
    t->prefetch = (Prefetch){m->weights + V(share)(t, tiles, 0) * size, m->weights + V(share)(t, tiles, 1) * size};
}

/* Multiply this thread's rows of a matrix by the vectors of all streams; write to `out` (streams, rows). */
static void V(product)(Thread *t, const Matrix *m, const Vectors *x, float *out)
{
    Prefetch *next = &t->prefetch;
    int64_t streams = t->shared->work->streams, tiles = m->vectors / m->width, rows = rows_of(m);
    int64_t weights = (int64_t)m->width * LANES * m->inputs, size = tile_bytes(m);
#if defined(WITH_AMX)
    int with_tiles = m->format > BF16 && streams >= V(LARGE_BLOCK);
    if (with_tiles)
        V(configure_tiles)(m->inputs);
#endif
    for (int64_t tile = V(share)(t, tiles, 0); tile < V(share)(t, tiles, 1); tile++) {
        const uint8_t *w = m->weights + tile * size;
        int format = m->format;
        if (format > BF16 && format < 7 && streams > V(BLOCK)) { /* unpacked once for all of them */
            for (int64_t quad = 0; quad < weights / 256; quad++)
                for (int part = 0; part < V(PARTS); part++) {
                    V(bytes) four[4];
                    V(unpack)(w + quad * 32 * format, format, part, four);
                    for (int i = 0; i < 4; i++)
                        memcpy(t->unpacked + quad * 256 + i * 64 + part * V(REGISTER), four + i, V(REGISTER));
                }
            w = t->unpacked;
            format = 7;
        }
        switch (format) {
        case FP32: V(tile_of_format)(FP32, m, tile, w, x, streams, next, out, rows); break;
        case BF16: V(tile_of_format)(BF16, m, tile, w, x, streams, next, out, rows); break;
        case 4: V(tile_of_format)(4, m, tile, w, x, streams, next, out, rows); break;
#if !defined(__wasm__) /* which unpacks these in advance; see charrnn/web/kernel/engine.c */
        case 5: V(tile_of_format)(5, m, tile, w, x, streams, next, out, rows); break;
        case 6: V(tile_of_format)(6, m, tile, w, x, streams, next, out, rows); break;
#endif
        default: V(tile_of_format)(7, m, tile, w, x, streams, next, out, rows);
        }
    }
#if defined(WITH_AMX)
    if (with_tiles)
        _tile_release();
#endif
}

/* Convert values (streams, size) for matrices of a format: copy them, or quantise each stream's to -127 ... 127. */
static void V(convert)(Vectors *v, const float *values, int64_t streams, int32_t size, int format)
{
    v->size = size;
    if (format <= BF16) {
        memcpy(v->values, values, sizeof(float) * (size_t)(streams * size));
        return;
    }
    for (int64_t s = 0; s < streams; s++, values += size) {
        V(values) largest = {0};
        ints sum = {0};
        for (int32_t k = 0; k < size; k += V(FLOATS))
            largest = V(max)(V(abs)(V(load_values)(values + k)), largest);
        float max_abs = V(max_of_lanes)(largest), scale = max_abs / 127, inverse = max_abs > 0 ? 127 / max_abs : 0;
        for (int32_t k = 0; k < size; k += LANES) {
            ints x;
            for (int part = 0; part < LANES; part += V(FLOATS)) {
                V(values) rounded = V(load_values)(values + k + part) * inverse + ROUND;
                V(integers) converted = (V(integers))rounded - ROUND_BITS;
                memcpy((int32_t *)&x + part, &converted, sizeof converted);
            }
            typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1)));
            *(bytes *)(v->bytes + s * size + k) = __builtin_convertvector(x, bytes);
            sum += x;
        }
        v->scale[s] = scale;
        v->sum[s] = 0;
        for (int lane = 0; lane < LANES; lane++)
            v->sum[s] += sum[lane];
    }
}
