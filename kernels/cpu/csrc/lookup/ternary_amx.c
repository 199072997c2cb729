/* Products of {-1, 0, 1} by signs with AMX. Both are unpacked to bytes: the windows that a task's rows read, and a panel. */
#include "ternary.h"

#ifdef HAVE_AMX
#include <immintrin.h>
#include <string.h>

#include "lookup.h"

#define TASK_ROWS 512 /* of one panel: so many that unpacking its signs takes little of the time */
#define ROWS 16       /* of a tile */
#define LINE 64       /* bytes of a row of a tile */
#define TILE_BYTES (ROWS * LINE)
#define TILES (COLS / 16) /* of a panel's columns */
#define INLINE __attribute__((always_inline)) AMX_TARGET static inline
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

typedef struct {
    const ternary_t *t;
    size_t panels, chunks; /* of columns; of LINE values of a segment */
    int failed;
} plan_t;

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* where the window of row r starts in the codes */
static size_t start_of(const ternary_t *t, size_t r)
{
    const size_t width = (size_t)t->width, height = (size_t)t->height;
    return r / width / height * (size_t)t->image + r / width % height * (size_t)t->line + r % width * (size_t)t->pixel;
}

/* each of 16 bytes four times, at once for its four values or signs */
INLINE __m512i fourfold(const uint8_t *bytes)
{
    const __m512i of = _mm512_set_epi32(0x0F0F0F0F, 0x0E0E0E0E, 0x0D0D0D0D, 0x0C0C0C0C, 0x0B0B0B0B, 0x0A0A0A0A, 0x09090909,
                                        0x08080808, 0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202,
                                        0x01010101, 0);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)bytes)), of);
}

/* `count` codes to values, up to LINE bytes more than there are; the last codes are copied, as 16 are read at once */
AMX_TARGET static void unpack_codes(const uint8_t *codes, size_t count, int8_t *values)
{
    const __m512i one = _mm512_set1_epi32(0x08040201), some = _mm512_set1_epi32((int)0x80402010);
    const __m512i plus = _mm512_set1_epi8(1), minus = _mm512_set1_epi8(-1);
    for (size_t i = 0; i < count; i += 16) {
        uint8_t last[16] = {0};
        const uint8_t *from = codes + i;
        if (i + 16 > count) from = memcpy(last, from, count - i);
        const __m512i code = fourfold(from);
        const __m512i signs = _mm512_mask_blend_epi8(_mm512_test_epi8_mask(code, one), minus, plus);
        _mm512_store_si512(values + 4 * i, _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(code, some), signs));
    }
}

/* a panel to tiles [segment][chunk][16 columns]: a line of a tile has four signs of each column; lines beyond a segment are 0 */
AMX_TARGET static void unpack_panel(const plan_t *p, const uint8_t *panel, int8_t *tiles)
{
    const size_t seg = (size_t)p->t->seg;
    const __m512i plus = _mm512_set1_epi8(1), minus = _mm512_set1_epi8(-1);
    for (int64_t s = 0; s < p->t->segs; s++)
        for (size_t j = 0; j < p->chunks * ROWS; j++)
            for (size_t c = 0; c < TILES; c++) {
                int8_t *line = tiles + (((size_t)s * p->chunks + j / ROWS) * TILES + c) * TILE_BYTES + j % ROWS * LINE;
                __m512i signs = _mm512_setzero_si512();
                if (j < seg) {
                    const __m512i bits = fourfold(panel + ((size_t)s * seg + j) / 2 * COLS + c * 16);
                    const __m512i bit = _mm512_set1_epi32(j % 2 ? (int)0x80402010 : 0x08040201);
                    signs = _mm512_mask_blend_epi8(_mm512_test_epi8_mask(bits, bit), minus, plus);
                }
                _mm512_store_si512(line, signs);
            }
}

/* ROWS rows, chunks `chunk` and segments `line` bytes apart, by `wide` (a constant) ? 64 : 32 columns, to [16 columns][row] */
INLINE void tile_for(const plan_t *p, const int8_t *a, size_t stride, size_t chunk, size_t line, const int8_t *b, const int wide,
                     int32_t sums[][ROWS][16])
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t s = 0; s < p->t->segs; s++, a += line)
        for (size_t c = 0; c < p->chunks; c++, b += TILES * TILE_BYTES) {
            _tile_loadd(4, a + c * chunk, stride);
            _tile_loadd(5, b, LINE);
            _tile_dpbssd(0, 4, 5);
            _tile_loadd(6, b + TILE_BYTES, LINE);
            _tile_dpbssd(1, 4, 6);
            if (wide) {
                _tile_loadd(5, b + 2 * TILE_BYTES, LINE);
                _tile_dpbssd(2, 4, 5);
                _tile_loadd(6, b + 3 * TILE_BYTES, LINE);
                _tile_dpbssd(3, 4, 6);
            }
        }
    _tile_stored(0, sums[0], LINE);
    _tile_stored(1, sums[1], LINE);
    if (wide) {
        _tile_stored(2, sums[2], LINE);
        _tile_stored(3, sums[3], LINE);
    }
}

/* TASK_ROWS rows of one panel */
AMX_TARGET static void rows_task(void *context, size_t task)
{
    plan_t *p = context;
    const ternary_t *t = p->t;
    const size_t panel = task % p->panels, from = task / p->panels * TASK_ROWS, n = (size_t)t->n, segs = (size_t)t->segs;
    const size_t to = least((size_t)(t->images * t->height * t->width), from + TASK_ROWS), first = start_of(t, from);
    const size_t count = start_of(t, to - 1) + (segs - 1) * (size_t)t->line + (size_t)t->seg - first;
    const size_t columns = least(COLS, n - panel * COLS), k = segs * p->chunks * LINE;
    int8_t *memory = lookup_scratch((count + 15) / 16 * LINE + LINE + k * (COLS + ROWS));
    if (!memory) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    int8_t *tiles = memory, *copy = tiles + k * COLS, *values = copy + k * ROWS;
    unpack_codes(t->codes + first, count, values);
    unpack_panel(p, t->panels + panel * (segs * (size_t)t->seg / 2) * COLS, tiles);
    amx_begin();
    for (size_t r = from; r < to; r += ROWS) {
        _Alignas(64) int32_t sums[TILES][ROWS][16];
        const size_t rows = least(ROWS, to - r), step = (size_t)t->pixel * 4;
        const int8_t *row[ROWS], *a;
        size_t stride = step, chunk = LINE, line = 4 * (size_t)t->line;
        int even = 1;
        for (size_t i = 0; i < ROWS; i++) {
            row[i] = values + 4 * (start_of(t, r + least(i, rows - 1)) - first);
            even &= row[i] == row[0] + i * step;
        }
        a = row[0];
        if (!even) { /* at the end of a line of pixels */
            for (size_t i = 0; i < ROWS; i++)
                for (size_t c = 0; c < segs * p->chunks; c++)
                    _mm512_store_si512(copy + (c * ROWS + i) * LINE,
                                       _mm512_loadu_si512(row[i] + c / p->chunks * line + c % p->chunks * LINE));
            a = copy, stride = LINE, chunk = TILE_BYTES, line = p->chunks * TILE_BYTES;
        }
        __asm__ volatile("" ::: "memory"); /* the compiler does not know that loading a tile reads memory */
        if (columns > 32)
            tile_for(p, a, stride, chunk, line, tiles, 1, sums);
        else
            tile_for(p, a, stride, chunk, line, tiles, 0, sums);
        for (size_t i = 0; i < rows; i++)
            for (size_t c = 0; c < columns; c += 16) {
                const __mmask16 there = (__mmask16)((1u << least(16, columns - c)) - 1);
                _mm512_mask_cvtepi32_storeu_epi16(t->out + (r + i) * n + panel * COLS + c, there,
                                                  _mm512_load_si512(sums[c / 16][i]));
            }
    }
    amx_end();
}

int ternary_amx(const ternary_t *t)
{
    plan_t p = {.t = t, .panels = (size_t)((t->n + COLS - 1) / COLS), .chunks = (size_t)((t->seg * 4 + LINE - 1) / LINE)};
    const size_t rows = (size_t)(t->images * t->height * t->width);
    parallel(rows_task, &p, (rows + TASK_ROWS - 1) / TASK_ROWS * p.panels, (int)t->threads);
    return p.failed;
}
#endif
