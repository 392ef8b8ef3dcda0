/* Functions of 16 floats at a time. */

#if defined(WITH_AVX512)
enum { V(REGISTER) = 64 }; /* bytes */
#elif defined(WITH_AVX2) || defined(WITH_AVXVNNI)
enum { V(REGISTER) = 32 };
#else
enum { V(REGISTER) = 16 };
#endif

enum { V(PARTS) = 64 / V(REGISTER) }; /* registers per vector: 16 floats, or 16 rows of 4 inputs, are 64 bytes */

typedef float V(values) __attribute__((vector_size(V(REGISTER))));
typedef int32_t V(integers) __attribute__((vector_size(V(REGISTER))));

/* Return a > b as a mask. Compilers split sums of 16 floats for narrower registers, but not comparisons and
 * conversions, of which they compute one float after the other. */
INLINE ints V(greater)(floats a, floats b)
{
    ints mask;
#pragma GCC unroll 4
    for (int offset = 0; offset < 64; offset += V(REGISTER)) {
        V(values) x, y;
        memcpy(&x, (const char *)&a + offset, sizeof x);
        memcpy(&y, (const char *)&b + offset, sizeof y);
        V(integers) part = x > y;
        memcpy((char *)&mask + offset, &part, sizeof part);
    }
    return mask;
}

INLINE ints V(to_integers)(floats x)
{
    ints result;
#pragma GCC unroll 4
    for (int offset = 0; offset < 64; offset += V(REGISTER)) {
        V(values) part;
        memcpy(&part, (const char *)&x + offset, sizeof part);
        V(integers) converted = __builtin_convertvector(part, V(integers));
        memcpy((char *)&result + offset, &converted, sizeof converted);
    }
    return result;
}

INLINE floats V(select)(ints mask, floats yes, floats no) { return (floats)(((ints)yes & mask) | ((ints)no & ~mask)); }

/* Return e^x with a relative error of at most 2e-7; 0 below -87, e^88 above 88. With x = n ln 2 + r and |r| at most
 * ln 2 / 2, e^x is 2^n times the Taylor series of e^r. */
INLINE floats V(exp)(floats x)
{
    const floats zero = {0};
    floats inside = V(select)(V(greater)(x, zero + 88.0f), zero + 88.0f, x);
    ints below = V(greater)(zero - 87.0f, x);
    inside = V(select)(below, zero - 87.0f, inside);
    floats n = (inside * 1.44269504f + ROUND) - ROUND;
    floats r = inside - n * 0.693145751953125f; /* ln 2 in two parts; the product of n and the first one is exact */
    r = r - n * 1.42860677e-6f;
    floats y = r * (1.0f / 5040) + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    ints power = (V(to_integers)(n) + 127) << 23;
    return V(select)(below, zero, y * (floats)power);
}

/* Return log(1 + x) for x in [0, 1], with an absolute error of at most 1e-7: twice the series of artanh(x / (2 + x)). */
INLINE floats V(log1p)(floats x)
{
    floats s = x / (2.0f + x), square = s * s;
    floats y = square * (1.0f / 11) + 1.0f / 9;
    y = y * square + 1.0f / 7;
    y = y * square + 1.0f / 5;
    y = y * square + 1.0f / 3;
    y = y * square + 1.0f;
    return 2.0f * s * y;
}

/* Both with an absolute error of at most 2e-7. */
INLINE floats V(sigmoid)(floats x) { return 1.0f / (1.0f + V(exp)(-x)); }
INLINE floats V(tanh)(floats x) { return 1.0f - 2.0f / (1.0f + V(exp)(x + x)); }

static void V(math)(int which, int64_t n, const float *x, float *y)
{
    for (int64_t i = 0; i < n; i += LANES) {
        floats in = *(const floats *)(x + i);
        *(floats *)(y + i) = which == 0 ? V(sigmoid)(in) : which == 1 ? V(tanh)(in) : V(exp)(in);
    }
}

INLINE float V(sum_of_lanes)(floats x)
{
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++)
            x[lane] += x[lane + half];
    return x[0];
}

INLINE float V(max_of_lanes)(floats x)
{
    for (int lane = 1; lane < LANES; lane++)
        x[0] = x[lane] > x[0] ? x[lane] : x[0];
    return x[0];
}
