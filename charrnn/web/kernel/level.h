/* Control of the level by the temperature. charrnn/engines/level.py explains it, and is its bit-exact reference. */

#define GAIN (0.03 * 10)   /* of the temperature per tenfold power */
#define MAX_REDUCTION 0.2  /* of the temperature */
#define FACTORS 1024       /* steps to which factors are rounded */
enum { LEVEL_BLOCK = 256, SILENCE = 128 };

typedef struct {
    int32_t active;
    float limit;           /* of `excess`, above which the stream fades out */
    double power;          /* of the recording */
    double share;          /* of a block in the mean */
    float excess;          /* (mean power - the recording's power) / the recording's power */
    float squares, count;  /* of the samples of the block so far */
    float padding;
} Level;

static double temperature_factor(const Level *level)
{
    double reduction = GAIN * log10(1 + (level->excess > 0 ? (double)level->excess : 0));
    return 1 - rint((reduction > MAX_REDUCTION ? MAX_REDUCTION : reduction) * FACTORS) / FACTORS;
}

/* Update the level with the next symbols of a block, and fade them out if the level is above the limit. Return whether
 * a fade is complete. */
static int control_level(Level *level, int32_t *ids, int count)
{
    int fading = level->excess > level->limit;
    float before = level->count;
    for (int i = 0; i < count; i++) {
        int32_t sample = ids[i] - SILENCE;
        level->squares += (float)(sample * sample); /* whole numbers below 2^24, which are exact */
        if (fading)
            ids[i] = SILENCE + (int32_t)rint(sample * (1 - (before + (double)(i + 1)) / LEVEL_BLOCK));
    }
    level->count += (float)count;
    if (level->count < LEVEL_BLOCK)
        return 0;
    double ratio = level->squares / (LEVEL_BLOCK * level->power) - 1;
    level->excess = (float)(level->excess + level->share * (ratio - level->excess));
    level->squares = level->count = 0;
    return fading;
}
