/* Products of real numbers with ±1, by tables (AVX-512). The sum ±x0 ±x1 ±x2 ±x3 of four numbers is one of 16, which
 * fit into one register, and a permutation looks it up for 16 columns of signs at once: a permutation and an addition
 * replace 64 multiply-adds.
 *
 * signs     columns of bits, 32 of the summed axis to a word: bit b of word w is sign 32w+b, set for +1. Columns lie
 *           side by side, `ld` words from one row of words to the next, padded to whole vectors. Bits beyond the
 *           summed axis have no effect, because the missing numbers count as 0.
 * planes    two sets of signs make numbers that are 0 or ±s: with p = (x >= 0) and q = (x > 0), x = s (p + q) / 2.
 */
#include <stdlib.h>
#include <string.h>

#include "../xnor.h"

#define ROWS 4          /* a tile's rows, */
#define VECTORS 4       /* and its vectors of columns: 16 registers of sums */
#define COLUMNS (16 * VECTORS)
#define GROUP 4         /* numbers that share a table */
#define WORD_GROUPS 8   /* tables for a word of signs */
#define BLOCK 128       /* tables of a row processed together: 8 KiB, so that four rows of them stay in the first-level cache */
#define CHUNK 256       /* at most this many image rows of a weight gradient are processed together, */
#define CHUNK_TABLES 256 /* with this many tables for a row of the result: 16 KiB */
#define MIN_WORK 262144 /* from this number of multiply-adds on, a second thread is used */
#define TASKS_EACH 4    /* tasks for each thread */

/* cpu/reals.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const float *x; /* (m, k) at strides x_row, x_k */
    int64_t x_row, x_k, m, k;
    const uint32_t *signs, *signs2; /* (ceil(k / 32), ld); signs2 is NULL for one plane */
    int64_t ld, n;
    float *out; /* (m, n), dense */
    int64_t threads;
    double scale;
} matmul_t;

typedef struct {
    const float *x; /* (images, height, width, k), dense */
    int64_t images, height, width, k, taps_h, taps_w, pad;
    const uint32_t *signs; /* (taps_h, taps_w, ceil(k / 32), ld) */
    int64_t ld, n;
    float *out; /* (images, height + 2 pad - taps_h + 1, width + 2 pad - taps_w + 1, n), dense */
    int64_t threads;
} conv_t;

typedef struct {
    const float *g; /* (images, height, width, m), dense; width <= 32 */
    int64_t images, height, width, m;
    const uint32_t *signs; /* (images, height, ld): bit p of a word is pixel p of the row, zero beyond */
    int64_t ld, n;
    float *out; /* (m, 3, 3, n), dense */
    int64_t threads;
} gradient_t;

#ifdef HAVE_X86
#include <immintrin.h>
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

static size_t min(size_t a, size_t b) { return a < b ? a : b; }

/* A stretch of the summed axis: the tables of each row, the words of signs, and how far the words are shifted first. */
typedef struct {
    const float *tables[ROWS];
    const uint32_t *signs;
    unsigned right, left;
} stretch_t;

/* Where a tile's sums go: `rows` rows, out_row floats apart; `last` masks its last vector; `first` starts from zero. */
typedef struct {
    float *out;
    size_t out_row, rows;
    __mmask16 last;
    int first;
} target_t;

/* `count` numbers at stride `step` to ceil(count / 4) tables of 16 sums, the number added where its bit is set. */
TARGET static void make_tables(const float *x, size_t step, size_t count, float scale, float *tables)
{
    const __mmask16 set[GROUP] = {0xAAAA, 0xCCCC, 0xF0F0, 0xFF00};
    for (size_t i = 0; i < count; i += GROUP, tables += 16) {
        const size_t here = min(GROUP, count - i);
        __m512 sum = _mm512_setzero_ps();
        for (size_t b = 0; b < here; b++) {
            const __m512 v = _mm512_set1_ps(x[(i + b) * step] * scale);
            sum = _mm512_mask_sub_ps(_mm512_add_ps(sum, v), (__mmask16)~set[b], sum, v);
        }
        _mm512_store_ps(tables, sum);
    }
}

__attribute__((always_inline)) TARGET static inline void tile_of(const stretch_t *stretch, size_t stretches,
                                                                 size_t groups, size_t ld, const target_t *to,
                                                                 const int vectors)
{
    __m512 sum[ROWS][VECTORS];
    const __m512 one = _mm512_set1_ps(1.0f);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const __mmask16 mask = to->first || (size_t)r >= to->rows ? 0 : v == vectors - 1 ? to->last : 0xFFFF;
            sum[r][v] = _mm512_maskz_loadu_ps(mask, to->out + (size_t)r * to->out_row + 16 * v);
        }
    for (const stretch_t *end = stretch + stretches; stretch < end; stretch++) {
        const float *tables[ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) tables[r] = stretch->tables[r];
        const uint32_t *signs = stretch->signs;
        for (size_t g = 0; g < groups; signs += ld) {
            __m512i index[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) index[v] = _mm512_loadu_si512(signs + 16 * v);
            if (stretch->right | stretch->left) {
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++)
                    index[v] = _mm512_slli_epi32(_mm512_srli_epi32(index[v], stretch->right), stretch->left);
            }
            for (const size_t end_g = min(groups, g + WORD_GROUPS); g < end_g; g++) {
#pragma GCC unroll 4
                for (int r = 0; r < ROWS; r++) {
                    const __m512 table = _mm512_load_ps(tables[r] + 16 * g);
#pragma GCC unroll 4
                    for (int v = 0; v < vectors; v++) {
                        const __m512 found = _mm512_permutexvar_ps(index[v], table);
                        /* half of the additions are multiply-adds, which use other ports */
                        sum[r][v] = (r + v) % 2 ? _mm512_fmadd_ps(found, one, sum[r][v]) : _mm512_add_ps(found, sum[r][v]);
                    }
                }
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) index[v] = _mm512_srli_epi32(index[v], GROUP);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            float *out = to->out + (size_t)r * to->out_row + 16 * v;
            if ((size_t)r >= to->rows) continue;
            if (v == vectors - 1 && to->last != 0xFFFF) _mm512_mask_storeu_ps(out, to->last, sum[r][v]);
            else _mm512_storeu_ps(out, sum[r][v]); /* masked stores are slow on Zen */
        }
}

/* Sums of `stretches` stretches of `groups` tables each, for up to COLUMNS columns. */
TARGET static void tile(const stretch_t *stretch, size_t stretches, size_t groups, size_t ld, size_t columns, target_t to)
{
    to.last = (__mmask16)(0xFFFF >> (15 - (columns - 1) % 16));
    switch ((columns + 15) / 16) {
    case 1: tile_of(stretch, stretches, groups, ld, &to, 1); break;
    case 2: tile_of(stretch, stretches, groups, ld, &to, 2); break;
    case 3: tile_of(stretch, stretches, groups, ld, &to, 3); break;
    default: tile_of(stretch, stretches, groups, ld, &to, 4); break;
    }
}

/* ---- matrix product ---- */

typedef struct {
    const matmul_t *j;
    size_t splits, panels;
} matmul_plan_t;

static void matmul_task(void *context, size_t task)
{
    const matmul_plan_t *p = context;
    const matmul_t *j = p->j;
    _Alignas(64) float tables[ROWS][BLOCK * 16];
    const size_t row0 = task / p->splits * ROWS, rows = min(ROWS, (size_t)j->m - row0), split = task % p->splits;
    const size_t from = split * p->panels / p->splits, to = (split + 1) * p->panels / p->splits;
    const size_t k = (size_t)j->k, n = (size_t)j->n;
    if (rows < ROWS) memset(tables, 0, sizeof tables);
    for (size_t k0 = 0; k0 < k; k0 += BLOCK * GROUP) {
        const size_t here = min(BLOCK * GROUP, k - k0), groups = (here + GROUP - 1) / GROUP;
        for (size_t r = 0; r < rows; r++)
            make_tables(j->x + (int64_t)(row0 + r) * j->x_row + (int64_t)k0 * j->x_k, (size_t)j->x_k, here, (float)j->scale,
                        tables[r]);
        stretch_t both[2] = {{.tables = {tables[0], tables[1], tables[2], tables[3]}}};
        both[1] = both[0];
        for (size_t panel = from; panel < to; panel++) {
            const size_t column = panel * COLUMNS, at = k0 / 32 * (size_t)j->ld + column;
            both[0].signs = j->signs + at;
            if (j->signs2) both[1].signs = j->signs2 + at;
            const target_t target = {j->out + row0 * n + column, n, rows, 0, k0 == 0};
            tile(both, j->signs2 ? 2 : 1, groups, (size_t)j->ld, min(COLUMNS, n - column), target);
        }
    }
}

static int real_matmul(const matmul_t *j)
{
    matmul_plan_t p = {.j = j, .panels = ((size_t)j->n + COLUMNS - 1) / COLUMNS};
    const size_t blocks = ((size_t)j->m + ROWS - 1) / ROWS;
    if (blocks == 0 || p.panels == 0) return 0;
    const int threads = j->m * j->n * j->k < MIN_WORK ? 1 : (int)j->threads;
    const size_t tasks = threads == 1 ? 1 : (size_t)threads * TASKS_EACH;
    p.splits = min(p.panels, (tasks + blocks - 1) / blocks);
    parallel(matmul_task, &p, blocks * p.splits, threads);
    return 0;
}

/* ---- convolution, zero border ---- */

typedef struct {
    const conv_t *j;
    size_t out_h, out_w;
    int failed;
} conv_plan_t;

/* One image, output row by output row; the tables of the input rows in use are in a ring buffer. */
static void conv_task(void *context, size_t image)
{
    conv_plan_t *p = context;
    const conv_t *j = p->j;
    const size_t k = (size_t)j->k, n = (size_t)j->n, ld = (size_t)j->ld, width = (size_t)j->width;
    const size_t taps_h = (size_t)j->taps_h, taps_w = (size_t)j->taps_w, groups = (k + GROUP - 1) / GROUP;
    const size_t words = (k + 31) / 32, row = width * groups * 16;
    float *ring = aligned_alloc(64, (taps_h * row + groups * 16) * sizeof *ring);
    stretch_t *stretch = malloc(taps_h * taps_w * sizeof *stretch);
    if (!ring || !stretch) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        free(ring), free(stretch);
        return;
    }
    float *zero = ring + taps_h * row;
    memset(zero, 0, groups * 16 * sizeof *zero);
    int64_t made = 0; /* input rows whose tables are made */
    for (size_t y = 0; y < p->out_h; y++) {
        const int64_t top = (int64_t)y - j->pad, bottom = top + j->taps_h;
        for (; made < bottom && made < j->height; made++)
            for (size_t x = 0; x < width; x++)
                make_tables(j->x + ((image * (size_t)j->height + (size_t)made) * width + x) * k, 1, k, 1.0f,
                            ring + (size_t)made % taps_h * row + x * groups * 16);
        for (size_t x0 = 0; x0 < p->out_w; x0 += ROWS) {
            size_t stretches = 0;
            for (size_t ty = 0; ty < taps_h; ty++) {
                const int64_t line = top + (int64_t)ty;
                if (line < 0 || line >= j->height) continue;
                for (size_t tx = 0; tx < taps_w; tx++) {
                    stretch_t *s = &stretch[stretches++];
                    *s = (stretch_t){.signs = j->signs + (ty * taps_w + tx) * words * ld};
                    for (size_t r = 0; r < ROWS; r++) {
                        const int64_t x = (int64_t)(x0 + r + tx) - j->pad;
                        const int inside = x >= 0 && x < j->width;
                        s->tables[r] = inside ? ring + (size_t)line % taps_h * row + (size_t)x * groups * 16 : zero;
                    }
                }
            }
            const target_t to = {j->out + ((image * p->out_h + y) * p->out_w + x0) * n, n, min(ROWS, p->out_w - x0), 0, 1};
            for (size_t column = 0; column < n; column += COLUMNS) {
                target_t here = to;
                here.out += column;
                tile(stretch, stretches, groups, ld, min(COLUMNS, n - column), here);
                for (size_t s = 0; s < stretches; s++) stretch[s].signs += COLUMNS;
            }
        }
    }
    free(ring), free(stretch);
}

static int real_conv(const conv_t *j)
{
    conv_plan_t p = {.j = j, .out_h = (size_t)(j->height + 2 * j->pad - j->taps_h + 1)};
    p.out_w = (size_t)(j->width + 2 * j->pad - j->taps_w + 1);
    const int64_t work = j->images * j->height * j->width * j->k * j->n * j->taps_h * j->taps_w;
    parallel(conv_task, &p, (size_t)j->images, work < MIN_WORK ? 1 : (int)j->threads);
    return p.failed;
}

/* ---- weight gradient of a 3x3 convolution: sum over positions of g(position) times the sign one tap away ---- */

typedef struct {
    const gradient_t *j;
    int failed;
} gradient_plan_t;

/* ROWS output maps. A tap that looks over the image's left or right edge shifts the words and finds a zero bit there,
 * which counts -1 instead of 0: the edge column's sum is added again. */
static void gradient_task(void *context, size_t task)
{
    gradient_plan_t *p = context;
    const gradient_t *j = p->j;
    const size_t m = (size_t)j->m, n = (size_t)j->n, ld = (size_t)j->ld, width = (size_t)j->width;
    const size_t height = (size_t)j->height, row0 = task * ROWS, rows = min(ROWS, m - row0);
    const size_t groups = (width + GROUP - 1) / GROUP, line = groups * 16;
    const size_t most = CHUNK_TABLES / groups ? CHUNK_TABLES / groups : 1;
    const size_t chunk = most < CHUNK ? most : CHUNK, total = (size_t)j->images * height;
    float *tables = aligned_alloc(64, ROWS * chunk * line * sizeof *tables);
    if (!tables) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    if (rows < ROWS) memset(tables, 0, ROWS * chunk * line * sizeof *tables);
    double edge[ROWS][3][2] = {{{0}}}; /* sums of the left and right column, for each vertical tap */
    for (size_t at = 0; at < total; at += chunk) {
        const size_t here = min(chunk, total - at);
        for (size_t i = 0; i < here; i++)
            for (size_t r = 0; r < rows; r++) {
                const float *g = j->g + (at + i) * width * m + row0 + r;
                make_tables(g, m, width, 1.0f, tables + (r * chunk + i) * line);
                const size_t y = (at + i) % height;
                for (size_t ty = 0; ty < 3; ty++) {
                    if (y + ty < 1 || y + ty > height) continue;
                    edge[r][ty][0] += g[0], edge[r][ty][1] += g[(width - 1) * m];
                }
            }
        for (size_t tap = 0; tap < 9; tap++) {
            stretch_t stretch[CHUNK];
            size_t stretches = 0;
            for (size_t i = 0; i < here; i++) {
                const size_t y = (at + i) % height + tap / 3; /* one more than the sign's row */
                if (y < 1 || y > height) continue;
                stretch_t *s = &stretch[stretches++];
                for (size_t r = 0; r < ROWS; r++) s->tables[r] = tables + (r * chunk + i) * line;
                s->signs = j->signs + (at + i + tap / 3 - 1) * ld;
                s->right = tap % 3 == 2, s->left = tap % 3 == 0;
            }
            for (size_t column = 0; column < n; column += COLUMNS) {
                const target_t to = {j->out + (row0 * 9 + tap) * n + column, 9 * n, rows, 0, at == 0};
                tile(stretch, stretches, groups, ld, min(COLUMNS, n - column), to);
                for (size_t s = 0; s < stretches; s++) stretch[s].signs += COLUMNS;
            }
        }
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t tap = 0; tap < 9; tap++) {
            if (tap % 3 == 1) continue;
            const float missing = (float)edge[r][tap / 3][tap % 3 == 2];
            float *out = j->out + ((row0 + r) * 9 + tap) * n;
            for (size_t c = 0; c < n; c++) out[c] += missing;
        }
    free(tables);
}

static int real_gradient(const gradient_t *j)
{
    gradient_plan_t p = {.j = j};
    const int64_t work = j->images * j->height * j->width * j->m * j->n;
    parallel(gradient_task, &p, ((size_t)j->m + ROWS - 1) / ROWS, work < MIN_WORK ? 1 : (int)j->threads);
    return p.failed;
}
#else
static int real_matmul(const matmul_t *j) { (void)j; return 2; }
static int real_conv(const conv_t *j) { (void)j; return 2; }
static int real_gradient(const gradient_t *j) { (void)j; return 2; }
#endif

/* 0 when done, 1 if memory ran out, 2 without AVX-512 */
int kernels_real_matmul(const matmul_t *j) { return real_matmul(j); }
int kernels_real_conv(const conv_t *j) { return real_conv(j); }
int kernels_real_gradient(const gradient_t *j) { return real_gradient(j); }
