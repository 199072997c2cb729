/* Products of bytes (0..255) with ±1 weights: a window of an image by a filter, the window outside the image being
 * zero; a matrix product is the case of images of one pixel. Two ways to the same integers:
 *
 * planes    any machine: the window's eight bit planes are eight rows for the 1-bit tile. With bits a of a plane and
 *           bits b of a filter, sum a (2b - 1) = popcount(b) - popcount(a ^ b), so the tile, started from
 *           2 popcount(b), gives twice the plane's product, and zeros of a window have no effect.
 * bytes     AVX-512 with VNNI: four bytes by four weights a lane; weights stay bits and become ±1 in registers.
 */
#include <string.h>

#include "bytes.h"
#include "../xnor.h"

#define PLANES 8
#define MIN_WORK 16384     /* multiply-adds, in units of 8 * LANES; with fewer, no second thread is used */
#define BLOCK_WORDS 4096   /* 64-bit words that the windows of one task may take on the stack */
#define BLOCK_MAX 32       /* windows of one task */
#define TASKS_EACH 4       /* tasks for each thread */

/* cpu/pixels.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const uint8_t *pixels; /* (images, height, width, channels) */
    int64_t images, height, width, channels;
    int64_t taps_h, taps_w, pad, out_h, out_w;
    const void *panels;   /* planes: as of kernels_panels; bytes: as of kernels_byte_panels */
    int64_t n, words;     /* filters; 64-bit words of a filter's bits */
    const int32_t *start; /* planes: 2 popcount(b) of each filter, padded to whole panels */
    int32_t *out;         /* (images * out_h * out_w, n), or NULL for packed bits: */
    uint8_t *bits;        /* zeroed rows of bits_bytes */
    int64_t bits_bytes;
    const int32_t *level, *flip;      /* level_y[y] + level_x[x] is where the levels of output pixel (y, x) begin */
    const int64_t *level_y, *level_x; /* (out_h), (out_w) */
    int64_t bytes, isa, threads;
} pixels_t;

typedef struct {
    const pixels_t *j;
    const isa_t *isa;
    size_t rows, block, blocks, panels, groups, splits;
} plan_t;

static size_t min(size_t a, size_t b) { return a < b ? a : b; }

/* The window of output pixel (y, x), taps row by row; `to` is zeroed. */
static void gather(const pixels_t *j, size_t image, size_t y, size_t x, uint8_t *to)
{
    const int64_t left = (int64_t)x - j->pad, from = left < 0 ? 0 : left;
    const int64_t to_x = left + j->taps_w < j->width ? left + j->taps_w : j->width;
    for (int64_t tap = 0; tap < j->taps_h; tap++) {
        const int64_t line = (int64_t)y - j->pad + tap;
        if (line < 0 || line >= j->height || to_x <= from) continue;
        const uint8_t *at = j->pixels + (((int64_t)image * j->height + line) * j->width + from) * j->channels;
        memcpy(to + (tap * j->taps_w + from - left) * j->channels, at, (size_t)((to_x - from) * j->channels));
    }
}

/* 64 * words bytes to PLANES rows of `words` lifted words */
static void split_planes(const uint8_t *bytes, size_t words, uint64_t *planes)
{
    for (size_t w = 0; w < words; w++) {
        uint64_t found[PLANES] = {0};
        for (unsigned part = 0; part < 8; part++) {
            uint64_t eight;
            memcpy(&eight, bytes + 64 * w + 8 * part, sizeof eight);
            for (unsigned p = 0; p < PLANES; p++) {
                const uint64_t bits = eight >> p & 0x0101010101010101u;
                found[p] |= bits * 0x0102040810204080u >> 56 << 8 * part;
            }
        }
        for (unsigned p = 0; p < PLANES; p++) planes[p * words + w] = found[p] ^ found[p] << 32;
    }
}

/* s = sum of 2^p times the product of plane p, for TILE_COLS filters from panel0 on */
static void by_planes(const plan_t *p, const uint64_t *planes, size_t panel0, int np, int32_t *s)
{
    const pixels_t *j = p->j;
    const size_t words = (size_t)j->words;
    _Alignas(64) int32_t twice[PLANES * TILE_COLS];
    row_t row[PLANES];
    for (size_t i = 0; i < PLANES; i++) row[i] = (row_t){(const uint32_t *)(planes + i * words), j->start};
    tile_t t = {.panel_stride = words * PAIR, .segs = 1, .pairs = words, .out_stride = TILE_COLS};
    t.panels = (const uint32_t *)j->panels + panel0 * t.panel_stride;
    t.col = panel0 * LANES;
    t.out = twice;
    p->isa->tiles(&t, row, PLANES, np);
    for (int c = 0; c < np * LANES; c++) {
        int32_t sum = 0;
        for (int i = 0; i < PLANES; i++) sum += twice[i * TILE_COLS + c] * (1 << i);
        s[c] = sum / 2;
    }
}

static void pixels_task(void *context, size_t task)
{
    const plan_t *p = context;
    const pixels_t *j = p->j;
    const size_t row0 = task / p->splits * p->block, rows = min(p->block, p->rows - row0);
    const size_t split = task % p->splits, end = (split + 1) * p->groups / p->splits;
    const size_t n = (size_t)j->n, words = (size_t)j->words, out_h = (size_t)j->out_h, out_w = (size_t)j->out_w;

    _Alignas(64) uint64_t windows[BLOCK_WORDS + 8]; /* bytes: 8 words for every 64; planes: as much again */
    const int32_t *levels[BLOCK_MAX];
    size_t x = row0 % out_w, y = row0 / out_w % out_h, image = row0 / out_w / out_h;
    for (size_t r = 0; r < rows; r++) {
        uint64_t *window = windows + r * 8 * words;
        if (j->bytes) {
            memset(window, 0, 64 * words);
            gather(j, image, y, x, (uint8_t *)window);
        } else {
            _Alignas(64) uint8_t bytes[8 * BLOCK_WORDS];
            memset(bytes, 0, 64 * words);
            gather(j, image, y, x, bytes);
            split_planes(bytes, words, window);
        }
        if (j->bits) levels[r] = j->level + j->level_y[y] + j->level_x[x];
        if (++x == out_w) {
            x = 0;
            if (++y == out_h) y = 0, image++;
        }
    }

    _Alignas(64) int32_t s[BYTE_ROWS * TILE_COLS];
    for (size_t g = split * p->groups / p->splits; g < end; g++) {
        const size_t panel0 = g * TILE_PANELS, col = panel0 * LANES;
        const int np = (int)min(TILE_PANELS, p->panels - panel0);
        const size_t cols = min((size_t)np * LANES, n - col);
        for (size_t r = 0; r < rows;) {
            size_t many = 1;
            if (j->bytes) {
                many = rows - r >= BYTE_ROWS ? BYTE_ROWS : 1;
                const uint64_t *panels = (const uint64_t *)j->panels + panel0 * 16 * words;
                byte_tile((const uint8_t *)(windows + r * 8 * words), 64 * words, panels, 16 * words, s, (int)many, np);
            } else {
                by_planes(p, windows + r * 8 * words, panel0, np, s);
            }
            for (size_t i = 0, run = 1; i < many; i += run, r += run, run = 1) {
                const int32_t *found = s + i * TILE_COLS;
                if (j->out) {
                    memcpy(j->out + (row0 + r) * n + col, found, cols * sizeof *found);
                    continue;
                }
                while (i + run < many && levels[r + run] == levels[r]) run++;
                p->isa->compare(found, run, np, levels[r] + col, j->flip + col,
                                j->bits + (row0 + r) * (size_t)j->bits_bytes + col / 8, (size_t)j->bits_bytes);
            }
        }
    }
}

void kernels_pixels(const pixels_t *j)
{
    plan_t p = {.j = j, .isa = isa_table((int)j->isa)};
    p.rows = (size_t)(j->images * j->out_h * j->out_w);
    p.panels = ((size_t)j->n + LANES - 1) / LANES;
    p.groups = (p.panels + TILE_PANELS - 1) / TILE_PANELS;
    if (p.rows == 0 || p.groups == 0) return;
    const size_t room = BLOCK_WORDS / (8 * (size_t)j->words);
    p.block = min(min(room, BLOCK_MAX), p.rows);
    p.blocks = (p.rows + p.block - 1) / p.block;
    const int threads = p.rows * p.panels * (size_t)j->words * 8 < MIN_WORK ? 1 : (int)j->threads;
    const size_t tasks = threads == 1 ? 1 : (size_t)threads * TASKS_EACH;
    p.splits = min(p.groups, (tasks + p.blocks - 1) / p.blocks);
    parallel(pixels_task, &p, p.blocks * p.splits, threads);
}

/* bits of n filters, `words` words each, to panels for byte_tile: for every four weights LANES nibbles */
void kernels_byte_panels(const uint64_t *bits, int64_t n, int64_t words, uint64_t *panels)
{
    memset(panels, 0, (size_t)((n + LANES - 1) / LANES * 16 * words) * sizeof *panels);
    for (int64_t f = 0; f < n; f++)
        for (int64_t q = 0; q < 16 * words; q++) {
            const uint64_t nibble = bits[f * words + q / 16] >> 4 * (q % 16) & 15;
            panels[(f / LANES * 16 * words) + q] |= nibble << 4 * (f % LANES);
        }
}
