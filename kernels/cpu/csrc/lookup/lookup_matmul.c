/* Real rows by signs (see lookup.h): each block of the summed numbers of a row has its own step. */
#include <stdlib.h>
#include <string.h>

#include "lookup.h"

#define ROWS 128  /* rows whose tables are made together */
#define STRIPS 2  /* panels of a task, which share the loads of the tables */

/* cpu/step/fixed.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const void *x; /* float, element (i, k) at x[i * x_row + k * x_k], or int16, of at most 255 */
    int64_t whole; /* int16 */
    int64_t x_row, x_k, m, k;
    const uint8_t *panels; /* [(n + 63) / 64][(k + 7) / 8][64] */
    int64_t n;
    float *out; /* [m][n] */
    int64_t isa, threads;
    double scale;
} matmul_t;

typedef struct {
    const matmul_t *j;
    const lookup_isa_t *isa;
    size_t from, rows;     /* of this pass */
    size_t blocks, groups; /* of a row; of a block at most */
    int16_t *tables;       /* [block][ROWS][groups][entries] */
    int16_t *start;        /* [block][row] */
    float *factor;         /* [block][row] */
    int failed;
} plan_t;

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* integers are doubled, so that their sums are even */
static void double_whole(const int16_t *x, int64_t x_row, int64_t x_k, size_t count, size_t n, size_t group, int32_t q[][PREPARED],
                         int32_t *total)
{
    memset(total, 0, PREPARED * sizeof *total);
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < PREPARED; i++) {
            q[k][i] = i < count ? 2 * x[(int64_t)i * x_row + (int64_t)k * x_k] : 0;
            total[i] += q[k][i];
        }
    for (size_t k = n; k % group; k++) memset(q[k], 0, sizeof q[k]);
}

static void tables_task(void *context, size_t task)
{
    plan_t *p = context;
    const matmul_t *j = p->j;
    const size_t row = task * PREPARED, count = least(PREPARED, p->rows - row), next = p->groups * p->isa->entries;
    _Alignas(64) float block[BLOCK][PREPARED];
    int32_t q[BLOCK + 8][PREPARED];
    memset(block, 0, sizeof block);
    for (size_t b = 0; b < p->blocks; b++) {
        const size_t n = least(BLOCK, (size_t)j->k - b * BLOCK);
        float step[PREPARED];
        int32_t total[PREPARED];
        const int64_t at = (int64_t)(p->from + row) * j->x_row + (int64_t)(b * BLOCK) * j->x_k;
        const float *x = (const float *)j->x + at;
        if (j->whole) {
            double_whole((const int16_t *)j->x + at, j->x_row, j->x_k, count, n, p->isa->group, q, total);
            for (size_t i = 0; i < PREPARED; i++) step[i] = 0.5f;
        } else if (j->x_k == 1)
            lookup_turn(x, j->x_row, count, n, block);
        else
            for (size_t k = 0; k < n; k++)
                for (size_t i = 0; i < count; i++) block[k][i] = x[(int64_t)i * j->x_row + (int64_t)k * j->x_k];
        if (!j->whole) p->isa->quantize(block[0], PREPARED, n, LIMIT, q, step, total);
        p->isa->tables(q, n, p->tables + (b * ROWS + row) * next, next);
        for (size_t i = 0; i < PREPARED; i++) {
            p->start[b * ROWS + row + i] = (int16_t)(-total[i] / 2);
            p->factor[b * ROWS + row + i] = (float)(2 * j->scale) * step[i];
        }
    }
}

static void sums_task(void *context, size_t task)
{
    plan_t *p = context;
    const matmul_t *j = p->j;
    const size_t next = p->groups * p->isa->entries, n = (size_t)j->n, bytes = ((size_t)j->k + 7) / 8;
    const size_t first = task * STRIPS, strips = least(STRIPS, (n + PANEL - 1) / PANEL - first);
    _Alignas(64) uint16_t codes[STRIPS][BLOCK][PANEL];
    float(*sums)[ROWS][PANEL] = lookup_scratch(sizeof(float[STRIPS][ROWS][PANEL]));
    if (!sums) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    p->isa->begin();
    for (size_t b = 0; b < p->blocks; b++) {
        const size_t count = least(BLOCK, (size_t)j->k - b * BLOCK), groups = lookup_groups(p->isa, count);
        for (size_t s = 0; s < strips; s++)
            p->isa->codes(j->panels + ((first + s) * bytes + b * (BLOCK / 8)) * PANEL, count, codes[s][0]);
        for (size_t r = 0; r < p->rows; r += p->isa->rows) {
            const int16_t *from[MOST_TILE];
            for (size_t i = 0; i < p->isa->rows; i++) from[i] = p->tables + (b * ROWS + r + i) * next;
            for (size_t s = 0; s < strips; s++)
                p->isa->tile(from, p->start + b * ROWS + r, p->factor + b * ROWS + r, codes[s][0], groups, 1, b == 0,
                             least(PANEL, n - (first + s) * PANEL), sums[s][r], PANEL);
        }
    }
    p->isa->end();
    for (size_t s = 0; s < strips; s++) {
        const size_t col = (first + s) * PANEL, columns = least(PANEL, n - col);
        for (size_t r = 0; r < p->rows; r++)
            memcpy(j->out + (p->from + r) * n + col, sums[s][r], columns * sizeof *j->out);
    }
}

/* returns 1 if memory ran out */
int kernels_lookup_matmul(const matmul_t *j)
{
    plan_t p = {.j = j, .isa = lookup_isa(j->isa)};
    p.blocks = ((size_t)j->k + BLOCK - 1) / BLOCK;
    p.groups = lookup_groups(p.isa, BLOCK);
    p.tables = aligned_alloc(64, ROWS * p.blocks * p.groups * p.isa->entries * sizeof *p.tables);
    p.start = calloc(ROWS * p.blocks, sizeof *p.start);
    p.factor = calloc(ROWS * p.blocks, sizeof *p.factor);
    p.failed = !p.tables || !p.start || !p.factor;
    const size_t strips = ((size_t)j->n + PANEL - 1) / PANEL;
    for (; !p.failed && p.from < (size_t)j->m; p.from += ROWS) {
        p.rows = least(ROWS, (size_t)j->m - p.from);
        parallel(tables_task, &p, (p.rows + PREPARED - 1) / PREPARED, (int)j->threads);
        parallel(sums_task, &p, (strips + STRIPS - 1) / STRIPS, (int)j->threads);
    }
    free(p.tables), free(p.start), free(p.factor);
    return p.failed;
}
