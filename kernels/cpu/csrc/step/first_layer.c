/* Weights of a dense first layer, updated while their gradient is summed: products of the 16-bit gradients of its output
 * with pixels, exact in 32-bit integers. Rows are outputs, columns pixels, the numbers summed the images of the batch. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../rules.h"

#define PANEL 64
#define BLOCK 128 /* images whose products by at most 255 * 32767 fit into 32 bits */
#define TILE 4    /* rows */
#define WIDTH 16  /* columns of a tile */
#define EIGHT 8
#define ROUND 12582912.0f /* 1.5 * 2^23: added, it leaves the nearest integer in the low bits, ties to even */

/* cpu/step/first_layer.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const float *g;   /* [batch][rows] */
    const int16_t *x; /* [batch][columns], at most 255 and at least -255 */
    int64_t batch, rows, columns;
    const rule_t *rule;
    float *w, *m, *v; /* [rows][columns] */
    uint8_t *to_out;  /* panels of the new signs [(rows + 63) / 64][(columns + 7) / 8][64] */
    int64_t isa, threads;
    double scale;     /* of x */
} first_t;

typedef struct {
    const first_t *j;
    size_t pairs, width; /* of images, of columns with the last tile filled up */
    int16_t *x;          /* [pair][width][2] */
    int failed;
} plan_t;

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* sums[r][c] (rows `width` apart) = sum over pairs of g[r][pair] by x[pair][c] */
typedef void tile_fn(const int16_t *const *g, const int16_t *x, size_t pairs, size_t width, int32_t sums[TILE][WIDTH]);

static void tile_portable(const int16_t *const *g, const int16_t *x, size_t pairs, size_t width, int32_t sums[TILE][WIDTH])
{
    memset(sums, 0, sizeof(int32_t[TILE][WIDTH]));
    for (size_t p = 0; p < pairs; p++, x += 2 * width)
        for (size_t r = 0; r < TILE; r++)
            for (size_t c = 0; c < WIDTH; c++) sums[r][c] += g[r][2 * p] * x[2 * c] + g[r][2 * p + 1] * x[2 * c + 1];
}

#ifdef HAVE_X86
#include <immintrin.h>

__attribute__((target("avx2"))) static void tile_avx2(const int16_t *const *g, const int16_t *x, size_t pairs, size_t width,
                                                      int32_t sums[TILE][WIDTH])
{
    __m256i sum[TILE][2];
    _Pragma("GCC unroll 4") for (int r = 0; r < TILE; r++) sum[r][0] = sum[r][1] = _mm256_setzero_si256();
    for (size_t p = 0; p < pairs; p++, x += 2 * width) {
        const __m256i a = _mm256_loadu_si256((const __m256i *)x), b = _mm256_loadu_si256((const __m256i *)x + 1);
        _Pragma("GCC unroll 4") for (int r = 0; r < TILE; r++) {
            int32_t both;
            memcpy(&both, g[r] + 2 * p, sizeof both);
            const __m256i pair = _mm256_set1_epi32(both);
            sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(pair, a));
            sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(pair, b));
            __asm__("" : "+x"(sum[r][0]), "+x"(sum[r][1])); /* keeps gcc from reordering the sums and from keeping them in memory */
        }
    }
    _Pragma("GCC unroll 4") for (int r = 0; r < TILE; r++) {
        _mm256_storeu_si256((__m256i *)sums[r], sum[r][0]);
        _mm256_storeu_si256((__m256i *)sums[r] + 1, sum[r][1]);
    }
}
#endif

/* Gradients of PANEL rows and a block of images as 16-bit multiples of a step for each row; the value of a step is
 * written to `factor`. An image of zeros follows. */
static void quantize(const first_t *j, size_t row, size_t from, size_t n, int16_t q[PANEL][BLOCK], float factor[PANEL])
{
    const size_t count = least(PANEL, (size_t)j->rows - row);
    float block[BLOCK][PANEL], most[PANEL] = {0}, inverse[PANEL]; /* a column of g maps to one set of each cache */
    uint32_t broken[PANEL] = {0};
    memset(block, 0, sizeof block);
    for (size_t b = 0; b < n; b++) {
        memcpy(block[b], j->g + (from + b) * (size_t)j->rows + row, count * sizeof(float));
        for (size_t r = 0; r < PANEL; r++) {
            const float size = fabsf(block[b][r]);
            broken[r] |= !(size <= 3e38f);
            most[r] = size > most[r] ? size : most[r];
        }
    }
    for (size_t r = 0; r < PANEL; r++) {
        inverse[r] = most[r] > 1e-30f && !broken[r] ? 32767 / most[r] : 0;
        factor[r] = broken[r] ? NAN : (float)j->scale * (most[r] / 32767);
    }
    memset(q, 0, sizeof(int16_t[PANEL][BLOCK]));
    for (size_t b = 0; b < n; b++)
        for (size_t r = 0; r < PANEL; r++) {
            const float value = (broken[r] ? 0 : block[b][r] * inverse[r]) + ROUND;
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            q[r][b] = (int16_t)bits;
        }
}

static void rows_task(void *context, size_t task)
{
    plan_t *p = context;
    const first_t *j = p->j;
    const size_t columns = (size_t)j->columns, batch = (size_t)j->batch, top = task * PANEL;
    const size_t end = least((size_t)j->rows, top + PANEL), octets = (columns + 7) / 8;
    tile_fn *tile = tile_portable;
#ifdef HAVE_X86
    if (j->isa > 0) tile = tile_avx2;
#endif
    rule_fn *update = rule_row(j->rule, j->isa);
    const size_t blocks = (batch + BLOCK - 1) / BLOCK;
    float *sums = malloc(TILE * p->width * sizeof *sums), *factor = malloc(blocks * PANEL * sizeof *factor);
    int16_t(*q)[BLOCK] = malloc(blocks * PANEL * sizeof *q);
    uint8_t(*bits)[EIGHT] = calloc(octets, sizeof *bits);
    if (!sums || !bits || !factor || !q) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        free(sums), free(bits), free(factor), free(q);
        return;
    }
    for (size_t b = 0; b < blocks; b++)
        quantize(j, top, b * BLOCK, least(BLOCK, batch - b * BLOCK), q + b * PANEL, factor + b * PANEL);
    for (size_t row = top; row < end; row += TILE) {
        const size_t count = least(TILE, end - row);
        for (size_t from = 0; from < batch; from += BLOCK) {
            const int16_t *g[TILE];
            const size_t n = least(BLOCK, batch - from), place = from / BLOCK * PANEL + row - top;
            for (size_t r = 0; r < TILE; r++) g[r] = q[place + r];
            for (size_t col = 0; col < p->width; col += WIDTH) {
                int32_t whole[TILE][WIDTH];
                if (from == 0)
                    for (size_t r = 0; r < count; r++) {
                        const size_t at = (row + r) * columns + col; /* may lie beyond the end: prefetching there is harmless */
                        __builtin_prefetch(j->w + at, 1, 2);
                        __builtin_prefetch(j->m + at, 1, 2);
                        __builtin_prefetch(j->v + at, 1, 2);
                    }
                tile(g, p->x + (from / 2 * p->width + col) * 2, (n + 1) / 2, p->width, whole);
                for (size_t r = 0; r < TILE; r++)
                    for (size_t c = 0; c < WIDTH; c++) {
                        float *sum = sums + r * p->width + col + c;
                        *sum = (from ? *sum : 0) + (float)whole[r][c] * factor[place + r];
                    }
            }
        }
        for (size_t r = 0; r < count; r++) {
            const size_t at = (row + r) * columns;
            update(j->rule, sums + r * p->width, j->w + at, j->m + at, j->v + at, columns, bits[0] + (row + r) % EIGHT,
                   EIGHT);
        }
        if ((row + TILE) % EIGHT == 0 || row + TILE >= end) {
            const size_t first = row / EIGHT * EIGHT;
            for (size_t i = 0; i < octets; i++)
                memcpy(j->to_out + (task * octets + i) * PANEL + first % PANEL, bits[i], EIGHT);
            memset(bits, 0, octets * sizeof *bits);
        }
    }
    free(sums), free(bits), free(factor), free(q);
}

static void pairs_task(void *context, size_t pair)
{
    plan_t *p = context;
    const first_t *j = p->j;
    const size_t columns = (size_t)j->columns;
    int16_t *to = p->x + pair * p->width * 2;
    const int16_t *a = j->x + 2 * pair * columns, *b = 2 * pair + 1 < (size_t)j->batch ? a + columns : NULL;
    memset(to, 0, p->width * 2 * sizeof *to);
    for (size_t c = 0; c < columns; c++) to[2 * c] = a[c], to[2 * c + 1] = b ? b[c] : 0;
}

/* returns 1 if memory ran out; the other threads have made their updates */
int kernels_first_update(const first_t *j)
{
    plan_t p = {.j = j, .pairs = ((size_t)j->batch + 1) / 2};
    p.width = ((size_t)j->columns + WIDTH - 1) / WIDTH * WIDTH;
    p.x = aligned_alloc(64, (p.pairs * p.width * 2 * sizeof *p.x + 63) / 64 * 64);
    if (!p.x) return 1;
    parallel(pairs_task, &p, p.pairs, (int)j->threads);
    parallel(rows_task, &p, ((size_t)j->rows + PANEL - 1) / PANEL, (int)j->threads);
    free(p.x);
    return p.failed;
}
