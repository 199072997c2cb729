/* Weights of a dense layer, updated as their gradient is summed from tables (see lookup.h): it is never stored. Rows are
 * outputs, columns inputs, the numbers summed the images of the batch. The signs of the new weights are written for both
 * products that need them. */
#include <stdlib.h>
#include <string.h>

#include "lookup.h"
#include "rules.h"

#define ROWS 64    /* of a task: a panel of the signs that are summed over inputs */
#define STRIP 1024 /* columns of a task: their codes stay in the second-level cache */

/* kernels/fixed.py holds the same fields in the same order, every one 64 bits wide. */
typedef struct {
    const float *g; /* [batch][rows] */
    int64_t batch, rows, columns;
    const uint8_t *low, *high; /* panels [(columns + 63) / 64][(batch + 7) / 8][64]; high may be NULL */
    const rule_t *rule;
    float *w, *m, *v;         /* [rows][columns] */
    uint8_t *to_in, *to_out;  /* panels [(columns + 63) / 64][(rows + 7) / 8][64], [(rows + 63) / 64][(columns + 7) / 8][64] */
    int64_t isa, threads;
    double scale; /* of low, or of low + high */
} dense_t;

typedef struct {
    const dense_t *j;
    const lookup_isa_t *isa;
    size_t planes, blocks, groups, panels; /* of signs; of the batch; of a block at most; of columns */
    uint16_t *codes;                       /* [panel][block][plane][groups of the block][PANEL] */
    int failed;
} plan_t;

static size_t least(size_t a, size_t b) { return a < b ? a : b; }
static size_t block_size(const plan_t *p, size_t b) { return least(BLOCK, (size_t)p->j->batch - b * BLOCK); }
static uint16_t *codes_at(const plan_t *p, size_t panel, size_t b)
{
    return p->codes + (panel * p->blocks + b) * p->planes * p->groups * PANEL;
}

static void codes_task(void *context, size_t panel)
{
    const plan_t *p = context;
    const size_t bytes = ((size_t)p->j->batch + 7) / 8;
    for (size_t b = 0; b < p->blocks; b++) {
        const size_t n = block_size(p, b), from = (panel * bytes + b * (BLOCK / 8)) * PANEL;
        uint16_t *codes = codes_at(p, panel, b);
        p->isa->codes(p->j->low + from, n, codes);
        if (p->j->high) p->isa->codes(p->j->high + from, n, codes + lookup_groups(p->isa, n) * PANEL);
    }
}

typedef struct {
    int16_t *tables, *start; /* [row][block][groups][entries], [block][row] */
    float *factor;           /* [block][row] */
} room_t;

/* tables of PREPARED rows */
static void prepare(const plan_t *p, size_t row, room_t *room)
{
    const dense_t *j = p->j;
    const size_t rows = (size_t)j->rows, count = least(PREPARED, rows - row), next = p->blocks * p->groups * p->isa->entries;
    _Alignas(64) float copy[BLOCK][PREPARED];
    int32_t q[BLOCK + 8][PREPARED], total[PREPARED];
    float step[PREPARED];
    for (size_t b = 0; b < p->blocks; b++) {
        const size_t n = block_size(p, b);
        const float *x = j->g + b * BLOCK * rows + row;
        size_t stride = rows;
        if (count < PREPARED) {
            memset(copy, 0, sizeof copy);
            for (size_t k = 0; k < n; k++) memcpy(copy[k], x + k * rows, count * sizeof *x);
            x = copy[0], stride = PREPARED;
        }
        p->isa->quantize(x, stride, n, p->planes == 1 ? LIMIT : LIMIT / 2, q, step, total);
        p->isa->tables(q, n, room->tables + b * p->groups * p->isa->entries, next);
        for (size_t r = 0; r < PREPARED; r++) {
            room->start[b * PREPARED + r] = (int16_t)(p->planes == 1 ? -total[r] / 2 : -total[r]);
            room->factor[b * PREPARED + r] = (float)(2 * j->scale) * step[r];
        }
    }
}

/* bit c of byte r to bit r of byte c */
static uint64_t turned(uint64_t x)
{
    uint64_t t = (x ^ x >> 7) & 0x00AA00AA00AA00AAu;
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & 0x0000CCCC0000CCCCu;
    x ^= t ^ t << 14;
    t = (x ^ x >> 28) & 0x00000000F0F0F0F0u;
    return x ^ t ^ t << 28;
}

/* TILE rows of a strip: their gradients, while their weights and moments are fetched; then the update. bits: of the first row,
 * [column / 8][row] */
static void update_rows(const plan_t *p, const room_t *room, size_t row, size_t count, size_t first, size_t last, float *sums,
                        uint8_t *bits)
{
    const dense_t *j = p->j;
    const size_t columns = (size_t)j->columns, next = p->blocks * p->groups * p->isa->entries, r = row % PREPARED;
    memset(sums, 0, sizeof(float[TILE][STRIP]));
    for (size_t panel = first; panel < last; panel++) {
        for (size_t i = 0; i < count; i++)
            for (size_t line = 0; line < PANEL; line += 16) { /* beyond the last column there may be nothing: no harm */
                const size_t at = (row + i) * columns + panel * PANEL + line;
                __builtin_prefetch(j->w + at, 1, 2);
                __builtin_prefetch(j->m + at, 1, 2);
                __builtin_prefetch(j->v + at, 1, 2);
            }
        for (size_t b = 0; b < p->blocks; b++) {
            const int16_t *from[TILE];
            for (size_t i = 0; i < TILE; i++) from[i] = room->tables + (r + i) * next + b * p->groups * p->isa->entries;
            p->isa->tile(from, room->start + b * PREPARED + r, room->factor + b * PREPARED + r, codes_at(p, panel, b),
                         lookup_groups(p->isa, block_size(p, b)), p->planes, sums + (panel - first) * PANEL, STRIP);
        }
    }
    const size_t col = first * PANEL, n = least(columns, last * PANEL) - col;
    rule_fn *update = rule_row(j->rule, j->isa);
    for (size_t i = 0; i < count; i++) {
        const size_t at = (row + i) * columns + col;
        update(j->rule, sums + i * STRIP, j->w + at, j->m + at, j->v + at, n, bits + i);
    }
}

/* signs of PREPARED rows of a strip to their panels */
static void write_signs(const dense_t *j, size_t row, size_t first, size_t last, uint8_t bits[][PREPARED])
{
    const size_t columns = (size_t)j->columns;
    for (size_t panel = first; panel < last; panel++) {
        uint8_t *to_in = j->to_in + (panel * (((size_t)j->rows + 7) / 8) + row / 8) * PANEL;
        for (size_t i = 0; i < PANEL / 8; i++, bits++) {
            const size_t col = panel * PANEL + 8 * i;
            uint64_t eight;
            memcpy(&eight, *bits, sizeof eight);
            if (col < columns)
                memcpy(j->to_out + (row / PANEL * ((columns + 7) / 8) + col / 8) * PANEL + row % PANEL, &eight, sizeof eight);
            eight = turned(eight);
            memcpy(to_in + 8 * i, &eight, sizeof eight);
        }
    }
}

static void rows_task(void *context, size_t task)
{
    plan_t *p = context;
    const dense_t *j = p->j;
    const size_t strips = (p->panels + STRIP / PANEL - 1) / (STRIP / PANEL), first = task % strips * (STRIP / PANEL);
    const size_t last = least(p->panels, first + STRIP / PANEL), top = task / strips * ROWS;
    const size_t end = least((size_t)j->rows, top + ROWS);
    const size_t tables = PREPARED * p->blocks * p->groups * p->isa->entries * sizeof(int16_t), values = PREPARED * p->blocks;
    char *memory = lookup_scratch(tables + values * (sizeof(int16_t) + sizeof(float)));
    if (!memory) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    room_t room = {(int16_t *)memory, (int16_t *)(memory + tables + values * sizeof(float)), (float *)(memory + tables)};
    _Alignas(64) float sums[TILE][STRIP];
    uint8_t bits[STRIP / 8][PREPARED];
    for (size_t row = top; row < end; row += PREPARED) {
        prepare(p, row, &room);
        memset(bits, 0, sizeof bits);
        for (size_t r = 0; r < PREPARED && row + r < end; r += TILE)
            update_rows(p, &room, row + r, least(TILE, end - row - r), first, last, sums[0], bits[0] + r);
        write_signs(j, row, first, last, bits);
    }
}

/* returns 1 where there is no memory: nothing is updated then but what threads with memory did */
int kernels_lookup_update(const dense_t *j)
{
    plan_t p = {.j = j, .isa = lookup_isa(j->isa), .planes = j->high ? 2 : 1};
    p.blocks = ((size_t)j->batch + BLOCK - 1) / BLOCK;
    p.groups = lookup_groups(p.isa, least(BLOCK, (size_t)j->batch));
    p.panels = ((size_t)j->columns + PANEL - 1) / PANEL;
    p.codes = aligned_alloc(64, p.panels * p.blocks * p.planes * p.groups * sizeof(uint16_t[PANEL]));
    if (!p.codes) return 1;
    const size_t strips = (p.panels + STRIP / PANEL - 1) / (STRIP / PANEL);
    parallel(codes_task, &p, p.panels, (int)j->threads);
    parallel(rows_task, &p, ((size_t)j->rows + ROWS - 1) / ROWS * strips, (int)j->threads);
    free(p.codes);
    return p.failed;
}
