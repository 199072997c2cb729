/* 3x3 convolutions of real images by signs, zero border, stride 1 (see lookup.h). Tables are made once per
 * pixel for all nine taps; each pixel has its own step for each block of its channels. */
#include <stdlib.h>
#include <string.h>

#include "lookup.h"

#define TAPS 9
#define BAND_PIXELS 128 /* about this many result rows in a task, so that their tables stay in the second-level cache */

/* cpu/step/fixed.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const float *x; /* [images][height][width][channels] */
    int64_t images, height, width, channels;
    const uint8_t *panels; /* [(n + 63) / 64][9][(channels + 7) / 8][64] */
    int64_t n;
    float *out; /* [images][height][width][n] */
    int64_t isa, threads;
    double scale;
} conv_t;

typedef struct {
    const conv_t *j;
    const lookup_isa_t *isa;
    size_t blocks, groups, bytes, strips; /* of a pixel's channels; of a block at most; of a tap's signs; of columns */
    size_t lines, bands;                  /* of a band; of an image */
    uint16_t *codes;                      /* [strips][TAPS][blocks][groups][code] */
    int failed;
} plan_t;

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static void codes_task(void *context, size_t task)
{
    const plan_t *p = context;
    const uint8_t *panel = p->j->panels + task * p->bytes * PANEL;
    uint16_t *codes = p->codes + task * p->blocks * p->groups * p->isa->code;
    for (size_t b = 0; b < p->blocks; b++, codes += p->groups * p->isa->code)
        p->isa->codes(panel + b * (BLOCK / 8) * PANEL, least(BLOCK, (size_t)p->j->channels - b * BLOCK), codes);
}

typedef struct {
    int16_t *tables, *start; /* [pixel][block] */
    float *factor;
    float (*sums)[PANEL]; /* [row of results] */
} room_t;

static size_t row_of(const plan_t *p) { return p->blocks * p->groups * p->isa->entries; }

/* tables of `count` pixels from x on, followed by those of a pixel of zeros */
static void prepare(const plan_t *p, const float *x, size_t count, room_t *room)
{
    const size_t channels = (size_t)p->j->channels, row = row_of(p);
    _Alignas(64) float block[BLOCK][PREPARED];
    int32_t q[BLOCK + 8][PREPARED];
    for (size_t i = 0; i < count; i += PREPARED)
        for (size_t b = 0; b < p->blocks; b++) {
            const size_t n = least(BLOCK, channels - b * BLOCK);
            float step[PREPARED];
            int32_t total[PREPARED];
            lookup_turn(x + i * channels + b * BLOCK, (ptrdiff_t)channels, least(PREPARED, count - i), n, block);
            p->isa->quantize(block[0], PREPARED, n, LIMIT, q, step, total);
            p->isa->tables(q, n, room->tables + i * row + b * p->groups * p->isa->entries, row);
            for (size_t r = 0; r < PREPARED; r++) {
                room->start[(i + r) * p->blocks + b] = (int16_t)(-total[r] / 2);
                room->factor[(i + r) * p->blocks + b] = (float)(2 * p->j->scale) * step[r];
            }
        }
    memset(room->tables + count * row, 0, row * sizeof *room->tables);
    memset(room->start + count * p->blocks, 0, p->blocks * sizeof *room->start);
    memset(room->factor + count * p->blocks, 0, p->blocks * sizeof *room->factor);
}

static void band_task(void *context, size_t task)
{
    plan_t *p = context;
    const conv_t *j = p->j;
    const size_t width = (size_t)j->width, height = (size_t)j->height, n = (size_t)j->n, entries = p->isa->entries;
    const size_t tile = p->isa->rows, image = task / p->bands, top = task % p->bands * p->lines;
    const size_t end = least(height, top + p->lines);
    const size_t first = top ? top - 1 : 0, last = least(height, end + 1), count = (last - first) * width;
    const size_t rows = (end - top) * width, room_for = (rows + tile - 1) / tile * tile, pixels = count + PREPARED;
    const size_t row = row_of(p);

    const size_t tables = (pixels * row * 2 + 63) / 64 * 64, values = (pixels * p->blocks * 4 + 63) / 64 * 64;
    const size_t sums = room_for * sizeof(float[PANEL]);
    char *memory = lookup_scratch(tables + 2 * values + sums + room_for * sizeof(uint32_t[TAPS]));
    if (!memory) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    room_t room = {(int16_t *)memory, (int16_t *)(memory + tables), (float *)(memory + tables + values),
                   (float(*)[PANEL])(memory + tables + 2 * values)};
    uint32_t(*source)[TAPS] = (uint32_t(*)[TAPS])(memory + tables + 2 * values + sums); /* pixel of each row and tap */
    prepare(p, j->x + (image * height + first) * width * (size_t)j->channels, count, &room);
    for (size_t r = 0, x = 0, y = top; r < room_for; r++) {
        for (size_t t = 0; t < TAPS; t++) {
            const size_t there_x = x + t % 3, there_y = y + t / 3; /* each plus one */
            const int inside = r < rows && there_x >= 1 && there_x <= width && there_y >= 1 && there_y <= height;
            source[r][t] = (uint32_t)(inside ? (there_y - 1 - first) * width + there_x - 1 : count);
        }
        if (++x == width) x = 0, y++;
    }

    p->isa->begin();
    float *out = j->out + (image * height + top) * width * n;
    for (size_t s = 0; s < p->strips; s++) {
        const uint16_t *codes = p->codes + s * TAPS * p->blocks * p->groups * p->isa->code;
        const size_t columns = least(PANEL, n - s * PANEL);
        for (size_t t = 0; t < TAPS; t++)
            for (size_t b = 0; b < p->blocks; b++, codes += p->groups * p->isa->code) {
                const size_t groups = lookup_groups(p->isa, least(BLOCK, (size_t)j->channels - b * BLOCK));
                for (size_t r = 0; r < rows; r += tile) {
                    const int16_t *from[MOST_TILE];
                    int16_t start[MOST_TILE];
                    float factor[MOST_TILE];
                    for (size_t i = 0; i < tile; i++) {
                        const size_t at = source[r + i][t];
                        from[i] = room.tables + at * row + b * p->groups * entries;
                        start[i] = room.start[at * p->blocks + b];
                        factor[i] = room.factor[at * p->blocks + b];
                    }
                    p->isa->tile(from, start, factor, codes, groups, 1, t + b == 0, columns, room.sums[r], PANEL);
                }
            }
        for (size_t r = 0; r < rows; r++) {
            float *to = out + r * n + s * PANEL;
            size_t c = 0;
            for (; c + 4 <= columns; c += 4) memcpy(to + c, room.sums[r] + c, 16); /* a row is too short for a call */
            for (; c < columns; c++) to[c] = room.sums[r][c];
        }
    }
    p->isa->end();
}

/* returns 1 if memory ran out */
int kernels_lookup_conv(const conv_t *j)
{
    plan_t p = {.j = j, .isa = lookup_isa(j->isa)};
    p.blocks = ((size_t)j->channels + BLOCK - 1) / BLOCK;
    p.groups = lookup_groups(p.isa, BLOCK);
    p.bytes = ((size_t)j->channels + 7) / 8;
    p.strips = ((size_t)j->n + PANEL - 1) / PANEL;
    p.lines = BAND_PIXELS < j->width ? 1 : least((size_t)j->height, BAND_PIXELS / (size_t)j->width);
    p.bands = ((size_t)j->height + p.lines - 1) / p.lines;
    p.codes = aligned_alloc(64, p.strips * TAPS * p.blocks * p.groups * p.isa->code * sizeof(uint16_t));
    if (!p.codes) return 1;
    parallel(codes_task, &p, p.strips * TAPS, (int)j->threads);
    parallel(band_task, &p, (size_t)j->images * p.bands, (int)j->threads);
    free(p.codes);
    return p.failed;
}
