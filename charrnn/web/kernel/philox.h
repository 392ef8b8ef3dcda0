/* Uniform numbers of a stream, the same as charrnn.sampling.generate.uniforms.
 *
 * Philox4x64-10 (Salmon, Moraes, Dror and Shaw 2011): ten rounds encrypt a counter, with the seed and the number of the
 * stream as the key. Each counter gives four numbers. */

enum { ROUNDS = 10, NUMBERS_PER_COUNTER = 4 };

/* Multiply two numbers of 64 bits; return the lower half of the product. */
static uint64_t multiply(uint64_t a, uint64_t b, uint64_t *upper)
{
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (uint32_t)middle;
    *upper = a1 * b1 + (middle >> 32) + (other >> 32);
    return a * b;
}

static void philox(uint64_t counter, uint64_t seed, uint64_t stream, uint64_t out[NUMBERS_PER_COUNTER])
{
    uint64_t c[NUMBERS_PER_COUNTER] = {counter}, upper[2];
    for (int i = 0; i < ROUNDS; i++, seed += 0x9e3779b97f4a7c15u, stream += 0xbb67ae8584caa73bu) {
        uint64_t first = multiply(0xd2e7470ee14c6c93u, c[0], upper), second = multiply(0xca5a826395121157u, c[2], upper + 1);
        c[0] = upper[1] ^ c[1] ^ seed;
        c[1] = second;
        c[2] = upper[0] ^ c[3] ^ stream;
        c[3] = first;
    }
    memcpy(out, c, sizeof c);
}

/* Write `count` numbers in [0, 1) of stream 0, beginning at a position. */
static void uniforms(uint64_t seed, int64_t position, int count, float *u)
{
    uint64_t numbers[NUMBERS_PER_COUNTER];
    for (int i = 0; i < count; i++) {
        int64_t at = position + i;
        if (i == 0 || at % NUMBERS_PER_COUNTER == 0)
            philox((uint64_t)(at / NUMBERS_PER_COUNTER) + 1, seed, 0, numbers); /* numpy increments the counter first */
        u[i] = (float)(numbers[at % NUMBERS_PER_COUNTER] >> 40) * 0x1p-24f;
    }
}
