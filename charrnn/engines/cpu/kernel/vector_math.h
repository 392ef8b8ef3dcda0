/* Functions of one register of floats at a time. */

#if defined(WITH_AVX512)
enum { V(REGISTER) = 64 }; /* bytes */
#elif defined(WITH_AVX2) || defined(WITH_AVXVNNI)
enum { V(REGISTER) = 32 };
#else
enum { V(REGISTER) = 16 };
#endif

enum { V(PARTS) = 64 / V(REGISTER) }; /* registers per vector: 16 floats, or 16 rows of 4 inputs, are 64 bytes */
enum { V(FLOATS) = V(REGISTER) / 4 }; /* floats per register */

typedef float V(values) __attribute__((vector_size(V(REGISTER))));
typedef int32_t V(integers) __attribute__((vector_size(V(REGISTER))));

INLINE V(values) V(select)(V(integers) mask, V(values) yes, V(values) no)
{
    return (V(values))(((V(integers))yes & mask) | ((V(integers))no & ~mask));
}

#if defined(__wasm__) /* clang does not compile the selection below to these instructions */
INLINE V(values) V(max)(V(values) a, V(values) b) { return (V(values))wasm_f32x4_pmax((v128_t)b, (v128_t)a); }
INLINE V(values) V(min)(V(values) a, V(values) b) { return (V(values))wasm_f32x4_pmin((v128_t)b, (v128_t)a); }
#else
INLINE V(values) V(max)(V(values) a, V(values) b) { return V(select)(a > b, a, b); }
INLINE V(values) V(min)(V(values) a, V(values) b) { return V(select)(b > a, a, b); }
#endif

INLINE V(values) V(abs)(V(values) x) { return (V(values))((V(integers))x & 0x7fffffff); }

INLINE V(values) V(load_values)(const float *x)
{
    V(values) loaded;
    memcpy(&loaded, x, sizeof loaded);
    return loaded;
}

INLINE void V(store_values)(float *x, V(values) stored) { memcpy(x, &stored, sizeof stored); }

/* Return e^x with a relative error of at most 2e-7; 0 below -87, e^88 above 88. With x = n ln 2 + r and |r| at most
 * ln 2 / 2, e^x is 2^n times the Taylor series of e^r. */
INLINE V(values) V(exp)(V(values) x)
{
    const V(values) zero = {0};
    V(values) inside = V(max)(zero - 87.0f, V(min)(zero + 88.0f, x));
    V(values) rounded = inside * 1.44269504f + ROUND, n = rounded - ROUND;
    V(values) r = inside - n * 0.693145751953125f; /* ln 2 in two parts; the product of n and the first one is exact */
    r = r - n * 1.42860677e-6f;
    V(values) y = r * (1.0f / 5040) + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    V(integers) power = ((V(integers))rounded + 127) << 23; /* the lowest bits of `rounded` are n */
    return (V(values))((V(integers))(y * (V(values))power) & (x >= zero - 87.0f));
}

/* Return log(1 + x) for x in [0, 1], with an absolute error of at most 1e-7: twice the series of artanh(x / (2 + x)). */
INLINE V(values) V(log1p)(V(values) x)
{
    V(values) s = x / (2.0f + x), square = s * s;
    V(values) y = square * (1.0f / 11) + 1.0f / 9;
    y = y * square + 1.0f / 7;
    y = y * square + 1.0f / 5;
    y = y * square + 1.0f / 3;
    y = y * square + 1.0f;
    return 2.0f * s * y;
}

/* Both with an absolute error of at most 2e-7. */
INLINE V(values) V(sigmoid)(V(values) x) { return 1.0f / (1.0f + V(exp)(-x)); }
INLINE V(values) V(tanh)(V(values) x) { return 1.0f - 2.0f / (1.0f + V(exp)(x + x)); }

static void V(math)(int which, int64_t n, const float *x, float *y)
{
    for (int64_t i = 0; i < n; i += V(FLOATS)) {
        V(values) in = V(load_values)(x + i);
        V(store_values)(y + i, which == 0 ? V(sigmoid)(in) : which == 1 ? V(tanh)(in) : V(exp)(in));
    }
}

INLINE float V(sum_of_lanes)(floats x)
{
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++)
            x[lane] += x[lane + half];
    return x[0];
}

INLINE float V(max_of_lanes)(V(values) x)
{
    for (int lane = 1; lane < V(FLOATS); lane++)
        x[0] = x[lane] > x[0] ? x[lane] : x[0];
    return x[0];
}
