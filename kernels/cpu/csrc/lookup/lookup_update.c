/* Weights of a dense layer, updated while their gradient is summed from tables (see lookup.h) and never stored. Rows are
 * outputs, columns inputs, the numbers summed the images of the batch. The signs of the new weights are written in the
 * layouts of both products that use them. */
#include <stdlib.h>
#include <string.h>

#include "lookup.h"
#include "../rules.h"

#define ROWS 64    /* of a task: a panel of the signs that are summed over inputs */
#define STRIP 4096 /* columns of a task: long runs of memory, but codes and gradients stay in the second-level cache */
#define UNIT_ROWS 8

/* cpu/step/fixed.py has the same fields in the same order, each 64 bits wide. */
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

/* of the rows of a task */
typedef struct {
    int16_t *tables, *start; /* [row][block][groups][entries], [block][row] */
    float *factor;           /* [block][row] */
} room_t;

static void prepare(const plan_t *p, size_t top, size_t count, room_t *room)
{
    const dense_t *j = p->j;
    const size_t rows = (size_t)j->rows, next = p->blocks * p->groups * p->isa->entries;
    _Alignas(64) float copy[ROWS / PREPARED][BLOCK][PREPARED]; /* copied, as rows may all map to the same cache sets */
    int32_t q[BLOCK + 8][PREPARED], total[PREPARED];
    float step[PREPARED];
    memset(copy, 0, sizeof copy);
    for (size_t b = 0; b < p->blocks; b++) {
        const size_t n = block_size(p, b);
        for (size_t k = 0; k < n; k++) {
            const float *g = j->g + (b * BLOCK + k) * rows + top;
            size_t r = 0;
            for (; r + PREPARED <= count; r += PREPARED) memcpy(copy[r / PREPARED][k], g + r, PREPARED * sizeof *g);
            for (; r < count; r++) copy[r / PREPARED][k][r % PREPARED] = g[r];
        }
        for (size_t r = 0; r < count; r += PREPARED) {
            p->isa->quantize(copy[r / PREPARED][0], PREPARED, n, p->planes == 1 ? LIMIT : LIMIT / 2, q, step, total);
            p->isa->tables(q, n, room->tables + r * next + b * p->groups * p->isa->entries, next);
            for (size_t i = 0; i < PREPARED; i++) {
                room->start[b * ROWS + r + i] = (int16_t)(p->planes == 1 ? -total[i] / 2 : -total[i]);
                room->factor[b * ROWS + r + i] = (float)(2 * j->scale) * step[i];
            }
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

/* rows and columns of weights that are updated together */
typedef struct {
    const dense_t *j;
    size_t row, col, rows, columns;
    _Alignas(64) float g[UNIT_ROWS][STRIP];
    uint8_t bits[UNIT_ROWS][STRIP / 8];
} unit_t;

/* the gradients of a unit */
static void sum_unit(const plan_t *p, const room_t *room, unit_t *unit)
{
    const size_t next = p->blocks * p->groups * p->isa->entries, top = unit->row % ROWS;
    for (size_t col = 0; col < unit->columns; col += PANEL)
        for (size_t r = 0; r < unit->rows; r += p->isa->rows) {
            for (size_t b = 0; b < p->blocks; b++) {
                const size_t at = b * ROWS + top + r;
                const int16_t *from[MOST_TILE];
                for (size_t i = 0; i < p->isa->rows; i++)
                    from[i] = room->tables + (top + r + i) * next + b * p->groups * p->isa->entries;
                p->isa->tile(from, room->start + at, room->factor + at, codes_at(p, (unit->col + col) / PANEL, b),
                             lookup_groups(p->isa, block_size(p, b)), p->planes, b == 0, least(PANEL, unit->columns - col),
                             unit->g[r] + col, STRIP);
            }
        }
}

/* The update of a unit; signs of its new weights go to to_in, and to `eights`, a byte a row for eight columns, for to_out. */
static void update_unit(unit_t *unit, uint64_t *eights)
{
    const dense_t *j = unit->j;
    const size_t columns = (size_t)j->columns, in_bytes = ((size_t)j->rows + 7) / 8;
    rule_fn *update = rule_row(j->rule, j->isa);
    for (size_t r = 0; r < unit->rows; r++) {
        const size_t at = (unit->row + r) * columns + unit->col;
        update(j->rule, unit->g[r], j->w + at, j->m + at, j->v + at, unit->columns, unit->bits[r], 1);
    }
    for (size_t c = 0; c < unit->columns; c += 8) {
        const size_t col = unit->col + c;
        uint64_t eight = 0;
        for (size_t r = 0; r < unit->rows; r++) eight |= (uint64_t)unit->bits[r][c / 8] << 8 * r;
        eights[c / 8] = eight;
        eight = turned(eight);
        memcpy(j->to_in + (col / PANEL * in_bytes + unit->row / 8) * PANEL + col % PANEL, &eight, sizeof eight);
    }
}

static void rows_task(void *context, size_t task)
{
    plan_t *p = context;
    const dense_t *j = p->j;
    const size_t strips = ((size_t)j->columns + STRIP - 1) / STRIP, top = task / strips * ROWS;
    const size_t end = least((size_t)j->rows, top + ROWS), values = ROWS * p->blocks;
    const size_t tables = ROWS * p->blocks * p->groups * p->isa->entries * sizeof(int16_t);
    const size_t fixed = sizeof(unit_t) + ROWS / UNIT_ROWS * sizeof(uint64_t[STRIP / 8]);
    char *memory = lookup_scratch(fixed + tables + values * (sizeof(int16_t) + sizeof(float)));
    if (!memory) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    char *at = memory + fixed;
    room_t room = {(int16_t *)at, (int16_t *)(at + tables + values * sizeof(float)), (float *)(at + tables)};
    prepare(p, top, end - top, &room);
    unit_t *unit = (unit_t *)memory;
    uint64_t(*eights)[STRIP / 8] = (uint64_t(*)[STRIP / 8])(unit + 1);
    unit->j = j, unit->col = task % strips * STRIP, unit->columns = least(STRIP, (size_t)j->columns - unit->col);
    for (unit->row = top; unit->row < end; unit->row += UNIT_ROWS) {
        unit->rows = least(UNIT_ROWS, end - unit->row);
        sum_unit(p, &room, unit);
        update_unit(unit, eights[(unit->row - top) / UNIT_ROWS]);
    }
    uint8_t *to_out = j->to_out + (top / PANEL * (((size_t)j->columns + 7) / 8) + unit->col / 8) * PANEL;
    for (size_t c = 0; c < unit->columns; c += 8, to_out += PANEL)
        for (size_t r = 0; r < end - top; r += UNIT_ROWS) memcpy(to_out + r, &eights[r / UNIT_ROWS][c / 8], UNIT_ROWS);
}

/* returns 1 if memory ran out; the other threads have made their updates; without AMX, whose tiles have more rows than a unit */
int kernels_lookup_update(const dense_t *j)
{
    plan_t p = {.j = j, .isa = lookup_isa(j->isa < 2 ? j->isa : 2), .planes = j->high ? 2 : 1};
    p.blocks = ((size_t)j->batch + BLOCK - 1) / BLOCK;
    p.groups = lookup_groups(p.isa, least(BLOCK, (size_t)j->batch));
    p.panels = ((size_t)j->columns + PANEL - 1) / PANEL;
    p.codes = aligned_alloc(64, p.panels * p.blocks * p.planes * p.groups * sizeof(uint16_t[PANEL]));
    if (!p.codes) return 1;
    const size_t strips = ((size_t)j->columns + STRIP - 1) / STRIP;
    parallel(codes_task, &p, p.panels, (int)j->threads);
    parallel(rows_task, &p, ((size_t)j->rows + ROWS - 1) / ROWS * strips, (int)j->threads);
    free(p.codes);
    return p.failed;
}
