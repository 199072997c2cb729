/* The row functions of norm.c for one instruction set: the including file defines NAME(f) and TARGET. Every loop is over columns,
 * which the compiler vectorizes; columns are independent. */
#define INLINE __attribute__((always_inline)) TARGET static inline

#ifndef NORM_ROWS_H
#define NORM_ROWS_H
#define AP2_CARRY ((1u << 23) - 0x3504F4u) /* reaches the exponent where the mantissa is at least sqrt(2) */
#endif

/* sign(x) * 2^round(log2 |x|) */
INLINE float NAME(ap2)(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + AP2_CARRY) & 0xFF800000u;
    memcpy(&x, &bits, sizeof bits);
    return x;
}

/* a 32-bit random number of an element; it depends on both halves of the key */
INLINE uint32_t NAME(number)(uint32_t low, uint32_t high, uint32_t element)
{
    uint32_t x = element ^ low;
    x ^= x >> 17, x *= 0xed5ad4bbu;
    x ^= x >> 11, x += high, x *= 0xac4c1b51u;
    x ^= x >> 15, x *= 0x31848babu;
    return x ^ x >> 14;
}

TARGET static void NAME(random)(uint64_t key, uint32_t from, int64_t n, uint32_t *out)
{
    const uint32_t low = (uint32_t)key, high = (uint32_t)(key >> 32);
    for (int64_t i = 0; i < n; i++) out[i] = NAME(number)(low, high, from + (uint32_t)i);
}

INLINE void NAME(load_row)(const norm_t *j, int64_t row, int64_t col, int64_t n, float *value)
{
    const float scale = (float)j->scale;
    if (j->kind == INT16) {
        const int16_t *y = (const int16_t *)j->y + row * j->cols + col;
        for (int64_t c = 0; c < n; c++) value[c] = scale * (float)y[c];
    } else {
        const float *y = (const float *)j->y + row * j->cols + col;
        for (int64_t c = 0; c < n; c++) value[c] = scale * y[c];
    }
}

TARGET static void NAME(sums)(const norm_t *j, int64_t from, int64_t to, int64_t col, int64_t n, int moment)
{
    float value[WIDTH], sum[WIDTH] = {0};
    const float *mean = j->mean + col;
    for (int64_t r = from; r < to; r++) {
        NAME(load_row)(j, r, col, n, value);
        if (!moment)
            for (int64_t c = 0; c < n; c++) sum[c] += value[c];
        else if (!j->shift)
            for (int64_t c = 0; c < n; c++) sum[c] += (value[c] - mean[c]) * (value[c] - mean[c]);
        else
            for (int64_t c = 0; c < n; c++) sum[c] += (value[c] - mean[c]) * NAME(ap2)(value[c] - mean[c]);
    }
    memcpy(j->sums + from / CHUNK * 2 * j->cols + col, sum, (size_t)n * sizeof *sum);
}

TARGET static void NAME(forward)(const norm_t *j, int64_t from, int64_t to, int64_t col, int64_t n)
{
    const float *mean = j->mean + col, *factor = j->factor + col, *beta = j->beta + col, kept = (float)j->kept;
    const uint32_t low = (uint32_t)j->noise_key, high = (uint32_t)(j->noise_key >> 32), least = (uint32_t)j->least;
    const uint32_t drop_low = (uint32_t)j->dropout_key, drop_high = (uint32_t)(j->dropout_key >> 32);
    float a[WIDTH], scaled[WIDTH];
    for (int64_t r = from; r < to; r++) {
        const int64_t at = r * j->cols + col;
        const uint32_t element = (uint32_t)at;
        NAME(load_row)(j, r, col, n, a);
        for (int64_t c = 0; c < n; c++) a[c] = (a[c] - mean[c]) * factor[c] + beta[c];
        if (j->activation == SIGN || j->activation == STOCHASTIC) {
            int8_t *out = j->signs + at;
            if (j->activation == STOCHASTIC)
                for (int64_t c = 0; c < n; c++) { /* (a + 1) / 2 >= a number in [0, 1), written for one in [-1, 1) */
                    const int32_t noise = (int32_t)(NAME(number)(low, high, element + (uint32_t)c) >> 8);
                    out[c] = a[c] >= (float)noise * 0x1p-23f - 1 ? 1 : -1;
                }
            else
                for (int64_t c = 0; c < n; c++) out[c] = a[c] >= 0 ? 1 : -1;
            if (least)
                for (int64_t c = 0; c < n; c++)
                    out[c] = NAME(number)(drop_low, drop_high, element + (uint32_t)c) >= least ? out[c] : 0;
            continue;
        }
        float *out = j->floats + at;
        for (int64_t c = 0; c < n; c++) scaled[c] = a[c] * kept; /* by itself, as a product in a condition is not vectorized */
        if (j->activation == RELU)
            for (int64_t c = 0; c < n; c++) out[c] = a[c] > 0 ? scaled[c] : 0;
        else
            memcpy(out, scaled, (size_t)n * sizeof *out);
        if (least)
            for (int64_t c = 0; c < n; c++)
                out[c] = NAME(number)(drop_low, drop_high, element + (uint32_t)c) >= least ? out[c] : 0;
    }
}

/* a row's gradient of a, and value - mean or its AP2 */
INLINE void NAME(back_row)(const norm_t *j, int64_t r, int64_t col, int64_t n, float *g, float *centred)
{
    const float *mean = j->mean + col, *factor = j->factor + col, *beta = j->beta + col, kept = (float)j->kept;
    const int64_t at = r * j->cols + col;
    const uint32_t low = (uint32_t)j->dropout_key, high = (uint32_t)(j->dropout_key >> 32), least = (uint32_t)j->least;
    const float *grad = j->grad + at;
    NAME(load_row)(j, r, col, n, centred);
    for (int64_t c = 0; c < n; c++) centred[c] -= mean[c];
    for (int64_t c = 0; c < n; c++) g[c] = grad[c] * kept;
    if (j->activation == RELU)
        for (int64_t c = 0; c < n; c++) g[c] = centred[c] * factor[c] + beta[c] > 0 ? g[c] : 0;
    else if (j->activation != NONE && j->masked)
        for (int64_t c = 0; c < n; c++) g[c] = fabsf(centred[c] * factor[c] + beta[c]) <= 1 ? g[c] : 0;
    if (least)
        for (int64_t c = 0; c < n; c++)
            g[c] = NAME(number)(low, high, (uint32_t)at + (uint32_t)c) >= least ? g[c] : 0;
    if (j->shift)
        for (int64_t c = 0; c < n; c++) centred[c] = NAME(ap2)(centred[c]);
}

TARGET static void NAME(back_sums)(const norm_t *j, int64_t from, int64_t to, int64_t col, int64_t n)
{
    float g[WIDTH], centred[WIDTH], sum[WIDTH] = {0}, product[WIDTH] = {0};
    for (int64_t r = from; r < to; r++) {
        NAME(back_row)(j, r, col, n, g, centred);
        for (int64_t c = 0; c < n; c++) sum[c] += g[c], product[c] += g[c] * centred[c];
    }
    float *out = j->sums + from / CHUNK * 2 * j->cols + col;
    memcpy(out, sum, (size_t)n * sizeof *sum);
    memcpy(out + j->cols, product, (size_t)n * sizeof *product);
}

TARGET static void NAME(back)(const norm_t *j, int64_t from, int64_t to, int64_t col, int64_t n)
{
    const float *average = j->average + col, *slope = j->slope + col, *factor = j->factor + col;
    float g[WIDTH], centred[WIDTH], sum[WIDTH] = {0};
    for (int64_t r = from; r < to; r++) {
        NAME(back_row)(j, r, col, n, g, centred);
        for (int64_t c = 0; c < n; c++) g[c] = (g[c] - average[c] - centred[c] * slope[c]) * factor[c];
        for (int64_t c = 0; c < n; c++) sum[c] += g[c];
        memcpy(j->grad + r * j->cols + col, g, (size_t)n * sizeof *g);
    }
    memcpy(j->sums + from / CHUNK * 2 * j->cols + col, sum, (size_t)n * sizeof *sum);
}

static const norm_isa_t NAME(rows) = {NAME(sums), NAME(forward), NAME(back_sums), NAME(back), NAME(random)};
#undef INLINE
