/* Quantisation and packing of a network's weights. */

/* Round a row to integers from -top - 1 to top; return their scale. Of several scales this is the one with the least
 * squared error: clipping a few of the largest weights costs less than coarser steps for all. */
static float quantise_row(const float *row, int64_t inputs, int top, int8_t *integers)
{
    enum { CANDIDATES = 13 };
    float largest = 0, best = 0;
    double least = INFINITY;
    for (int64_t k = 0; k < inputs; k++)
        largest = fabsf(row[k]) > largest ? fabsf(row[k]) : largest;
    for (int candidate = 0; candidate < CANDIDATES && largest > 0; candidate++) {
        float scale = largest / (float)top * (1.0f - 0.04f * (float)candidate), inverse = 1 / scale, low = -(float)top - 1;
        float error[LANES] = {0};
        for (int64_t k = 0; k < inputs; k += LANES)
            for (int lane = 0; lane < LANES; lane++) {
                float x = row[k + lane] * inverse, rounded = (x + ROUND) - ROUND;
                rounded = rounded > (float)top ? (float)top : rounded < low ? low : rounded;
                error[lane] += (x - rounded) * (x - rounded);
            }
        double sum = 0;
        for (int lane = 0; lane < LANES; lane++)
            sum += error[lane];
        sum *= (double)scale * scale;
        if (sum < least) {
            least = sum;
            best = scale;
        }
    }
    for (int64_t k = 0; k < inputs; k++) {
        float x = best > 0 ? rintf(row[k] / best) : 0;
        integers[k] = (int8_t)(x > (float)top ? top : x < -(float)top - 1 ? -top - 1 : (int)x);
    }
    return best;
}

/* Store an unsigned weight of 4 to 7 bits at a lane of a vector of 64: 4 inputs of each of 16 rows.
 *
 * 4 bits: two vectors share 64 bytes, the second one in the upper halves.
 * 5 bits: four vectors share two times 64 bytes in the same way, and 32 bytes after them with their fifth bits: the
 *         highest bit of the first and the third, the lowest bit of the others.
 * 6 bits: four vectors share three times 64 bytes. Each of these has two bits of the fourth above its own six. */
static void store_integer(uint8_t *weights, int bits, int64_t vector, int64_t lane, unsigned value)
{
    if (bits == 4) {
        weights[vector / 2 * 64 + lane] |= (uint8_t)(value << vector % 2 * 4);
    } else if (bits == 5) {
        uint8_t *quad = weights + vector / 4 * 160;
        unsigned four = vector % 2 ? value >> 1 << 4 : value & 15, fifth = vector % 2 ? value & 1 : value >> 4;
        quad[vector % 4 / 2 * 64 + lane] |= (uint8_t)four;
        quad[128 + lane % 32] |= (uint8_t)(fifth << (vector % 4 + lane / 32 * 4));
    } else if (bits == 6 && vector % 4 < 3) {
        weights[vector / 4 * 192 + vector % 4 * 64 + lane] |= (uint8_t)value;
    } else if (bits == 6) {
        for (int i = 0; i < 3; i++)
            weights[vector / 4 * 192 + i * 64 + lane] |= (uint8_t)((value >> 2 * i & 3) << 6);
    } else {
        weights[vector * 64 + lane] = (uint8_t)value;
    }
}

/* Return the bytes of a matrix's weights. */
EXPORT int64_t charrnn_size(const Matrix *m) { return rows_of(m) * m->inputs * stored_bits(m->format) / 8; }

/* Pack rows (16 * vectors, inputs) into `weights`, charrnn_size bytes that are all zero, and `scale`. Return 0, or -1
 * if there is not enough memory. */
EXPORT int charrnn_pack(const Matrix *m, const float *rows, uint8_t *weights, float *scale)
{
    int64_t inputs = m->inputs;
    int bits = m->format, group = bits == FP32 ? 1 : bits == BF16 ? 2 : GROUP;
    int top = bits > BF16 ? (1 << (bits - 1)) - 1 : 0;
    int8_t *integers = malloc((size_t)inputs);
    if (!integers)
        return -1;
    for (int64_t row = 0; row < rows_of(m); row++) {
        const float *from = rows + row * inputs;
        int64_t vector = row / LANES, tile = vector / m->width;
        if (bits > BF16)
            scale[row] = quantise_row(from, inputs, top, integers);
        for (int64_t k = 0; k < inputs; k++) {
            int64_t stored = (tile * (inputs / group) + k / group) * m->width + vector % m->width; /* vector, in order */
            int64_t lane = row % LANES * group + k % group, at = stored * LANES * group + lane;
            if (bits == FP32) {
                memcpy(weights + 4 * at, from + k, 4);
            } else if (bits == BF16) {
                uint32_t word;
                memcpy(&word, from + k, 4);
                uint16_t upper = (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16); /* nearest, ties to even */
                memcpy(weights + 2 * at, &upper, 2);
            } else {
                store_integer(weights, bits, stored, lane, (unsigned)(integers[k] + top + 1));
            }
        }
    }
    free(integers);
    return 0;
}
