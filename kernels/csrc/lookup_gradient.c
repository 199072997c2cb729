/* Weight gradients of 3x3 convolutions whose inputs are +-1 (see lookup.h). The numbers summed are the pixels of all images,
 * in their order; the rows of tables are channels of the gradient, the columns channels of the input, nine times: once for
 * every tap, which takes the signs one pixel aside. Pixels whose neighbour lies outside the image count for nothing. */
#include <stdlib.h>
#include <string.h>

#include "lookup.h"

#define TAPS 9
#define STRIPS 3      /* of columns that are summed together */
#define SUM_ROWS 16   /* of one of them */
#define TABLE_ROWS 16 /* whose tables are made together: a cache line of them */
#define AT_ONCE 8     /* blocks of a pass over the rows and columns */

/* kernels/fixed.py holds the same fields in the same order, every one 64 bits wide. */
typedef struct {
    const float *g; /* [images][height][width][m] */
    int64_t images, height, width, m;
    const int8_t *a; /* [images][height][width][n], n a multiple of 64 */
    int64_t n;
    float *out; /* [m][TAPS][n] */
    int64_t isa, threads;
    double scale;
} gradient_t;

typedef struct {
    const gradient_t *j;
    const lookup_isa_t *isa;
    size_t pixels, image, rows, strips, groups; /* pixels of all images, of one */
    size_t from, blocks, at_once; /* first pixel and number of blocks of this pass, and of any pass at most */
    int16_t *tables;              /* [block][row][groups][entries] */
    int16_t *start;               /* [tap][at_once][row] */
    float *factor;                /* [at_once][row] */
    float *rest;                  /* [tap][row]: what halves of odd sums leave over, all passes so far */
    float *sums;                  /* [tap][strip][row][PANEL] */
    uint16_t *outside;            /* [height][width], see find_borders */
    int failed;
} plan_t;

static size_t least(size_t a, size_t b) { return a < b ? a : b; }
static size_t block_size(const plan_t *p, size_t b) { return least(BLOCK, p->pixels - p->from - b * BLOCK); }

/* bit t: tap t's neighbour of this pixel of an image lies outside */
static void find_borders(const gradient_t *j, uint16_t *outside)
{
    for (int64_t y = 0; y < j->height; y++)
        for (int64_t x = 0; x < j->width; x++, outside++) {
            *outside = 0;
            for (int t = 0; t < TAPS; t++) {
                const int64_t there_y = y + t / 3 - 1, there_x = x + t % 3 - 1;
                if (there_y < 0 || there_y == j->height || there_x < 0 || there_x == j->width) *outside |= (uint16_t)(1 << t);
            }
        }
}

/* tables of PREPARED rows for a block, whose n numbers from pixel `first` on are x[k][row] */
static void prepare(plan_t *p, size_t row, size_t b, size_t first, size_t n, float x[][PREPARED])
{
    const gradient_t *j = p->j;
    const size_t next = p->groups * p->isa->entries;
    float step[PREPARED];
    int32_t q[BLOCK + 8][PREPARED], all[PREPARED], total[TAPS][PREPARED];
    p->isa->quantize(x[0], PREPARED, n, LIMIT, q, step, all);
    p->isa->tables(q, n, p->tables + (b * p->rows + row) * next, next);
    for (size_t t = 0; t < TAPS; t++) memcpy(total[t], all, sizeof all);
    for (size_t k = 0, place = first % p->image; k < n; k++) {
        const unsigned outside = p->outside[place];
        if (++place == p->image) place = 0;
        if (!outside) continue;
        for (size_t t = 0; t < TAPS; t++)
            if (outside >> t & 1)
                for (size_t r = 0; r < PREPARED; r++) total[t][r] -= q[k][r];
    }
    for (size_t r = 0; r < PREPARED; r++) {
        const float factor = (float)(2 * j->scale) * step[r];
        p->factor[b * p->rows + row + r] = factor;
        for (size_t t = 0; t < TAPS; t++) {
            p->start[(t * p->at_once + b) * p->rows + row + r] = (int16_t)-(total[t][r] >> 1);
            p->rest[t * p->rows + row + r] -= 0.5f * factor * (float)(total[t][r] & 1);
        }
    }
}

static void tables_task(void *context, size_t task)
{
    plan_t *p = context;
    const size_t m = (size_t)p->j->m, row = task * TABLE_ROWS;
    _Alignas(64) float copy[TABLE_ROWS / PREPARED][BLOCK][PREPARED]; /* rows may be as far apart as the sets of a cache */
    memset(copy, 0, sizeof copy);
    for (size_t b = 0; b < p->blocks; b++) {
        const size_t first = p->from + b * BLOCK, n = block_size(p, b);
        for (size_t k = 0; k < n; k++)
            for (size_t r = 0; r < TABLE_ROWS && row + r < m; r += PREPARED)
                memcpy(copy[r / PREPARED][k], p->j->g + (first + k) * m + row + r, least(PREPARED, m - row - r) * sizeof(float));
        for (size_t r = 0; r < TABLE_ROWS && row + r < p->rows; r += PREPARED) prepare(p, row + r, b, first, n, copy[r / PREPARED]);
    }
}

/* signs that tap's neighbours of a block's pixels have in a strip of columns */
static void find_codes(const plan_t *p, size_t tap, size_t strip, size_t first, size_t count, uint16_t *codes)
{
    const gradient_t *j = p->j;
    const size_t n = (size_t)j->n, groups = lookup_groups(p->isa, count);
    const ptrdiff_t aside = ((ptrdiff_t)(tap / 3) - 1) * (ptrdiff_t)j->width + (ptrdiff_t)(tap % 3) - 1;
    const int8_t *rows[BLOCK + 8];
    _Alignas(64) int8_t none[PANEL];
    memset(none, -1, sizeof none);
    for (size_t k = 0, place = first % p->image; k < count; k++) {
        const int there = !(p->outside[place] >> tap & 1);
        rows[k] = there ? j->a + (size_t)((ptrdiff_t)(first + k) + aside) * n + strip * PANEL : none;
        if (++place == p->image) place = 0;
    }
    for (size_t k = count; k < groups * p->isa->group; k++) rows[k] = none;
    p->isa->codes_of(rows, groups, codes);
}

/* Strips of columns, of one tap or of several. A group of rows takes all blocks of the pass one after the other, while its sums are
 * in the first-level cache; its tables are fetched once for all strips. */
static void sums_task(void *context, size_t task)
{
    plan_t *p = context;
    const size_t next = p->groups * p->isa->entries, size = p->groups * PANEL;
    const size_t from_strip = task * STRIPS, strips = least(STRIPS, TAPS * p->strips - from_strip);
    uint16_t *codes = lookup_scratch(p->blocks * strips * size * sizeof *codes); /* [block][strip][groups][PANEL] */
    if (!codes) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    for (size_t b = 0; b < p->blocks; b++)
        for (size_t s = 0; s < strips; s++)
            find_codes(p, (from_strip + s) / p->strips, (from_strip + s) % p->strips, p->from + b * BLOCK, block_size(p, b),
                       codes + (b * strips + s) * size);
    for (size_t top = 0; top < p->rows; top += SUM_ROWS)
        for (size_t b = 0; b < p->blocks; b++)
            for (size_t r = top; r < least(p->rows, top + SUM_ROWS); r += TILE) {
                const int16_t *from[TILE];
                for (size_t i = 0; i < TILE; i++) from[i] = p->tables + (b * p->rows + r + i) * next;
                for (size_t s = 0; s < strips; s++) {
                    const size_t at = b * p->rows + r, tap = (from_strip + s) / p->strips;
                    p->isa->tile(from, p->start + tap * p->at_once * p->rows + at, p->factor + at, codes + (b * strips + s) * size,
                                 lookup_groups(p->isa, block_size(p, b)), 1, p->from + b == 0,
                                 p->sums + ((from_strip + s) * p->rows + r) * PANEL, PANEL);
                }
            }
}

static void out_task(void *context, size_t row)
{
    const plan_t *p = context;
    const size_t n = (size_t)p->j->n;
    for (size_t task = 0; task < TAPS * p->strips; task++) {
        const size_t tap = task / p->strips;
        const float *sums = p->sums + (task * p->rows + row) * PANEL, rest = p->rest[tap * p->rows + row];
        float *out = p->j->out + (row * TAPS + tap) * n + task % p->strips * PANEL;
        for (size_t c = 0; c < PANEL; c++) out[c] = sums[c] + rest;
    }
}

/* returns 1 where there is no memory */
int kernels_lookup_gradient(const gradient_t *j)
{
    plan_t p = {.j = j, .isa = lookup_isa(j->isa)};
    p.pixels = (size_t)(j->images * j->height * j->width);
    p.image = (size_t)(j->height * j->width);
    p.rows = ((size_t)j->m + PREPARED - 1) / PREPARED * PREPARED;
    p.strips = (size_t)j->n / PANEL;
    p.groups = lookup_groups(p.isa, BLOCK);
    const size_t table = p.groups * p.isa->entries * sizeof(int16_t), all = (p.pixels + BLOCK - 1) / BLOCK;
    p.at_once = least(AT_ONCE, all);
    const size_t sums = TAPS * p.strips * p.rows * PANEL, values = p.rows * p.at_once;
    p.tables = aligned_alloc(64, p.rows * p.at_once * table);
    p.sums = aligned_alloc(64, sums * sizeof *p.sums);
    p.start = calloc(TAPS * values, sizeof *p.start);
    p.factor = calloc(values, sizeof *p.factor);
    p.rest = calloc(TAPS * p.rows, sizeof *p.rest);
    p.outside = calloc(p.image, sizeof *p.outside);
    const int there = p.tables && p.sums && p.start && p.factor && p.rest && p.outside;
    if (there) {
        find_borders(j, p.outside);
        for (; p.from < p.pixels; p.from += p.at_once * BLOCK) {
            p.blocks = least(p.at_once, all - p.from / BLOCK);
            parallel(tables_task, &p, (p.rows + TABLE_ROWS - 1) / TABLE_ROWS, (int)j->threads);
            parallel(sums_task, &p, (TAPS * p.strips + STRIPS - 1) / STRIPS, (int)j->threads);
        }
        parallel(out_task, &p, (size_t)j->m, (int)j->threads);
    }
    free(p.tables), free(p.sums), free(p.start), free(p.factor), free(p.rest), free(p.outside);
    return !there || p.failed;
}
