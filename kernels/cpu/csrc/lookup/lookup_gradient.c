/* Weight gradients of 3x3 convolutions whose inputs are +-1 (see lookup.h). The numbers summed are the pixels of all images,
 * in their order; the rows of tables are channels of the gradient, the columns channels of the input, nine times: once for
 * every tap, which uses the signs of a neighbouring pixel. Pixels whose neighbour is outside the image add nothing. */
#include <stdlib.h>
#include <string.h>

#include "lookup.h"

#define TAPS 9
#define ROWS 128  /* rows of a task at most; each task makes its own tables, as cores may share no cache */
#define AT_ONCE 4 /* blocks whose tables are made together, so that they stay in the second-level cache */

/* cpu/step/fixed.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const float *g; /* [images][height][width][m] */
    int64_t images, height, width, m;
    const int8_t *a; /* [images][height][width][across], across a multiple of STEP */
    int64_t across, n;
    float *out; /* [m][TAPS][n] */
    int64_t isa, threads;
    double scale;
} gradient_t;

typedef struct {
    const gradient_t *j;
    const lookup_isa_t *isa;
    size_t pixels, image, strips, groups, next; /* pixels of all images, of one; int16 of a row's tables for a block */
    size_t rows;                                /* of a task */
    uint16_t *outside;                          /* [height][width], see find_borders */
    int failed;
} plan_t;

/* of a task */
typedef struct {
    size_t top, count, rows;    /* channels of the gradient; `rows` is `count` filled up to a whole number of tables */
    int16_t *tables;            /* [AT_ONCE][ROWS][groups][entries] */
    uint16_t *codes;            /* [groups][code] */
    float (*sums)[ROWS][PANEL]; /* [tap][strip] */
    int16_t start[AT_ONCE][TAPS][ROWS];
    float factor[AT_ONCE][ROWS], rest[TAPS][ROWS]; /* rest: remainders of halved odd sums over all blocks so far */
} room_t;

static size_t least(size_t a, size_t b) { return a < b ? a : b; }
static size_t block_size(const plan_t *p, size_t first) { return least(BLOCK, p->pixels - first); }
static size_t lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* bit t: the neighbour of this pixel by tap t lies outside the image */
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

/* tables of PREPARED rows for block b, whose n numbers from pixel `first` on are x[k][row] */
static void prepare(const plan_t *p, room_t *room, size_t row, size_t b, size_t first, size_t n, float x[][PREPARED])
{
    float step[PREPARED];
    int32_t q[BLOCK + 8][PREPARED], all[PREPARED], total[TAPS][PREPARED];
    p->isa->quantize(x[0], PREPARED, n, LIMIT, q, step, all);
    p->isa->tables(q, n, room->tables + (b * ROWS + row) * p->next, p->next);
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
        const float factor = (float)(2 * p->j->scale) * step[r];
        room->factor[b][row + r] = factor;
        for (size_t t = 0; t < TAPS; t++) {
            room->start[b][t][row + r] = (int16_t)-(total[t][r] >> 1);
            room->rest[t][row + r] -= 0.5f * factor * (float)(total[t][r] & 1);
        }
    }
}

/* tables of all rows for block b */
static void prepare_rows(const plan_t *p, room_t *room, size_t b, size_t first)
{
    const size_t m = (size_t)p->j->m, n = block_size(p, first), count = room->count;
    _Alignas(64) float copy[ROWS / PREPARED][BLOCK][PREPARED]; /* copied, as rows may all map to the same cache sets */
    memset(copy, 0, sizeof copy);
    for (size_t k = 0; k < n; k++) {
        const float *g = p->j->g + (first + k) * m + room->top;
        size_t r = 0;
        for (; r + PREPARED <= count; r += PREPARED) memcpy(copy[r / PREPARED][k], g + r, PREPARED * sizeof *g);
        for (; r < count; r++) copy[r / PREPARED][k][r % PREPARED] = g[r];
    }
    for (size_t r = 0; r < room->rows; r += PREPARED) prepare(p, room, r, b, first, n, copy[r / PREPARED]);
}

/* signs of the neighbours, by tap, of a block's pixels in a strip of columns */
static void find_codes(const plan_t *p, size_t tap, size_t strip, size_t first, size_t count, uint16_t *codes)
{
    const gradient_t *j = p->j;
    const size_t across = (size_t)j->across, groups = lookup_groups(p->isa, count);
    const ptrdiff_t aside = ((ptrdiff_t)(tap / 3) - 1) * (ptrdiff_t)j->width + (ptrdiff_t)(tap % 3) - 1;
    const int8_t *rows[BLOCK + 8];
    _Alignas(64) int8_t none[PANEL];
    memset(none, -1, sizeof none);
    for (size_t k = 0, place = first % p->image; k < count; k++) {
        const int there = !(p->outside[place] >> tap & 1);
        rows[k] = there ? j->a + (size_t)((ptrdiff_t)(first + k) + aside) * across + strip * PANEL : none;
        if (++place == p->image) place = 0;
    }
    for (size_t k = count; k < groups * p->isa->group; k++) rows[k] = none;
    p->isa->codes_of(rows, groups, least(PANEL, across - strip * PANEL), codes);
}

/* Some rows of the result. Tables of a few blocks are made, then used for all taps and strips of columns. */
static void rows_task(void *context, size_t task)
{
    plan_t *p = context;
    const size_t n = (size_t)p->j->n, columns = TAPS * p->strips;
    const size_t tables = lines(AT_ONCE * ROWS * p->next * sizeof(int16_t));
    const size_t codes = lines(p->groups * p->isa->code * sizeof(uint16_t));
    char *memory = lookup_scratch(lines(sizeof(room_t)) + tables + codes + columns * sizeof(float[ROWS][PANEL]));
    if (!memory) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    room_t *room = (room_t *)memory;
    memory += lines(sizeof(room_t));
    room->tables = (int16_t *)memory, room->codes = (uint16_t *)(memory + tables);
    room->sums = (float(*)[ROWS][PANEL])(memory + tables + codes);
    room->top = task * p->rows, room->count = least(p->rows, (size_t)p->j->m - room->top);
    room->rows = (room->count + PREPARED - 1) / PREPARED * PREPARED;
    memset(room->rest, 0, sizeof room->rest);
    p->isa->begin();
    for (size_t from = 0; from < p->pixels; from += AT_ONCE * BLOCK) {
        const size_t blocks = least(AT_ONCE, (p->pixels - from + BLOCK - 1) / BLOCK);
        for (size_t b = 0; b < blocks; b++) prepare_rows(p, room, b, from + b * BLOCK);
        for (size_t c = 0; c < columns; c++)
            for (size_t b = 0; b < blocks; b++) {
                const size_t first = from + b * BLOCK, count = block_size(p, first), tap = c / p->strips;
                const size_t strip = c % p->strips;
                find_codes(p, tap, strip, first, count, room->codes);
                for (size_t r = 0; r < room->rows; r += p->isa->rows) {
                    const int16_t *at[MOST_TILE];
                    for (size_t i = 0; i < p->isa->rows; i++) at[i] = room->tables + (b * ROWS + r + i) * p->next;
                    p->isa->tile(at, room->start[b][tap] + r, room->factor[b] + r, room->codes, lookup_groups(p->isa, count), 1,
                                 first == 0, least(PANEL, n - strip * PANEL), room->sums[c][r], PANEL);
                }
            }
    }
    p->isa->end();
    for (size_t r = 0; r < room->count; r++)
        for (size_t c = 0; c < columns; c++) {
            const float *sums = room->sums[c][r], rest = room->rest[c / p->strips][r];
            const size_t col = c % p->strips * PANEL;
            float *out = p->j->out + ((room->top + r) * TAPS + c / p->strips) * n + col;
            for (size_t i = 0; i < least(PANEL, n - col); i++) out[i] = sums[i] + rest;
        }
}

/* returns 1 if memory ran out */
int kernels_lookup_gradient(const gradient_t *j)
{
    plan_t p = {.j = j, .isa = lookup_isa(j->isa)};
    p.pixels = (size_t)(j->images * j->height * j->width);
    p.image = (size_t)(j->height * j->width);
    p.strips = ((size_t)j->n + PANEL - 1) / PANEL;
    p.groups = lookup_groups(p.isa, BLOCK);
    p.next = p.groups * p.isa->entries;
    p.outside = calloc(p.image, sizeof *p.outside);
    if (!p.outside) return 1;
    find_borders(j, p.outside);
    const size_t m = (size_t)j->m, threads = (size_t)j->threads, turns = (m + threads * ROWS - 1) / (threads * ROWS);
    p.rows = (m + threads * turns - 1) / (threads * turns); /* as many tasks for each thread */
    p.rows = (p.rows + PREPARED - 1) / PREPARED * PREPARED;
    parallel(rows_task, &p, (m + p.rows - 1) / p.rows, (int)j->threads);
    free(p.outside);
    return p.failed;
}
