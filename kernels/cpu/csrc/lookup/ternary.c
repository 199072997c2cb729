/* Products of {-1, 0, 1} by signs, exact: four values of a row choose one of 81 tables of 16 small sums, and four signs of
 * a column choose one of these sums.
 *
 * code     of four values of a row: bit b set where value b is 1, bit 4 + b where it is not 0.
 * panel    64 columns of the right operand: a byte of each column for every eight rows, bit b set for +1 in row 8j + b.
 * Sums are kept unsigned: 4 is added per code, and the total of it is subtracted at the end. */
#include <string.h>

#include "ternary.h"

#define FLUSH 15      /* bytes of signs whose sums, at most 16 a byte, fit into eight bits */
#define BLOCK_ROWS 96 /* rows of a task */
#define ROWS 4        /* of a tile */

/* the first `cols` columns; others of `out` may change */
typedef void tile_fn(const ternary_t *t, const uint8_t *const *row, size_t rows, const uint8_t *panel, size_t cols,
                     int16_t out[][COLS]);

static uint8_t table[256][16] __attribute__((aligned(64)));

static void make_table(void)
{
    for (int code = 0; code < 256; code++)
        for (int at = 0; at < 16; at++) {
            int sum = 4;
            for (int b = 0; b < 4; b++)
                if (code >> (4 + b) & 1) sum += (code >> b & 1) == (at >> b & 1) ? 1 : -1;
            table[code][at] = (uint8_t)sum;
        }
}

static void tile_portable(const ternary_t *t, const uint8_t *const *row, size_t rows, const uint8_t *panel, size_t cols,
                          int16_t out[][COLS])
{
    for (size_t r = 0; r < rows; r++) {
        uint16_t sum[COLS] = {0};
        const uint8_t *signs = panel;
        for (int64_t s = 0; s < t->segs; s++) {
            const uint8_t *code = row[r] + s * t->line;
            for (int64_t j = 0; j < t->seg; j += 2, signs += COLS) {
                const uint8_t *low = table[code[j]], *high = table[code[j + 1]];
                for (size_t c = 0; c < cols; c++) sum[c] += (uint16_t)(low[signs[c] & 15] + high[signs[c] >> 4]);
            }
        }
        for (size_t c = 0; c < cols; c++) out[r][c] = (int16_t)(sum[c] - 4 * t->segs * t->seg);
    }
}

#ifdef HAVE_X86
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define MOST_V 2 /* vectors of 32 columns */
#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); i++)

/* a code of every row; the empty statements keep gcc from reassociating the sums, for which it has too few registers */
#define LOOK_UP(at)                                                                                      \
    EACH(r, R) {                                                                                         \
        const __m256i sums = _mm256_broadcastsi128_si256(*(const __m128i *)table[row[r][s * t->line + j + (at)]]); \
        EACH(v, V) {                                                                                     \
            acc[r][v] = _mm256_add_epi8(acc[r][v], _mm256_shuffle_epi8(sums, of[v]));                    \
            __asm__("" : "+x"(acc[r][v]));                                                               \
        }                                                                                                \
    }

__attribute__((always_inline)) AVX2 static inline void tile_rows(const ternary_t *t, const uint8_t *const *row, const int R,
                                                                 const int V, const uint8_t *panel, int16_t out[][COLS])
{
    const __m256i low = _mm256_set1_epi8(15), bytes = _mm256_set1_epi16(255);
    __m256i sum[ROWS][MOST_V][2]; /* of even and of odd columns */
    EACH(r, R) EACH(v, V) sum[r][v][0] = sum[r][v][1] = _mm256_setzero_si256();
    for (int64_t s = 0; s < t->segs; s++)
        for (int64_t j = 0; j < t->seg;) {
            const int64_t end = j + 2 * FLUSH < t->seg ? j + 2 * FLUSH : t->seg;
            __m256i acc[ROWS][MOST_V];
            EACH(r, R) EACH(v, V) acc[r][v] = _mm256_setzero_si256();
            for (; j < end; j += 2, panel += COLS) {
                __m256i signs[MOST_V], of[MOST_V];
                EACH(v, V) signs[v] = _mm256_loadu_si256((const __m256i *)panel + v);
                EACH(v, V) of[v] = _mm256_and_si256(signs[v], low);
                LOOK_UP(0)
                EACH(v, V) of[v] = _mm256_and_si256(_mm256_srli_epi16(signs[v], 4), low);
                LOOK_UP(1)
            }
            EACH(r, R) EACH(v, V) {
                sum[r][v][0] = _mm256_add_epi16(sum[r][v][0], _mm256_and_si256(acc[r][v], bytes));
                sum[r][v][1] = _mm256_add_epi16(sum[r][v][1], _mm256_srli_epi16(acc[r][v], 8));
            }
        }
    const __m256i off = _mm256_set1_epi16((int16_t)(4 * t->segs * t->seg));
    EACH(r, R) EACH(v, V) {
        const __m256i even = _mm256_sub_epi16(sum[r][v][0], off), odd = _mm256_sub_epi16(sum[r][v][1], off);
        const __m256i a = _mm256_unpacklo_epi16(even, odd), b = _mm256_unpackhi_epi16(even, odd);
        _mm256_storeu_si256((__m256i *)(out[r] + 32 * v), _mm256_permute2x128_si256(a, b, 0x20));
        _mm256_storeu_si256((__m256i *)(out[r] + 32 * v + 16), _mm256_permute2x128_si256(a, b, 0x31));
    }
}

AVX2 static void tile_avx2(const ternary_t *t, const uint8_t *const *row, size_t rows, const uint8_t *panel, size_t cols,
                           int16_t out[][COLS])
{
    const int wide = cols > 32;
    switch (rows) {
        case 1: wide ? tile_rows(t, row, 1, 2, panel, out) : tile_rows(t, row, 1, 1, panel, out); break;
        case 2: wide ? tile_rows(t, row, 2, 2, panel, out) : tile_rows(t, row, 2, 1, panel, out); break;
        case 3: wide ? tile_rows(t, row, 3, 2, panel, out) : tile_rows(t, row, 3, 1, panel, out); break;
        default: wide ? tile_rows(t, row, ROWS, 2, panel, out) : tile_rows(t, row, ROWS, 1, panel, out); break;
    }
}
#endif

static void ternary_task(void *context, size_t task)
{
    const ternary_t *t = context;
    tile_fn *tile = tile_portable;
#ifdef HAVE_X86
    if (t->isa > 0) tile = tile_avx2;
#endif
    const int64_t panels = (t->n + COLS - 1) / COLS, rows = t->images * t->height * t->width;
    const int64_t panel = (int64_t)task % panels, from = (int64_t)task / panels * BLOCK_ROWS;
    const int64_t to = from + BLOCK_ROWS < rows ? from + BLOCK_ROWS : rows;
    const int64_t col = panel * COLS, cols = t->n - col < COLS ? t->n - col : COLS;
    const uint8_t *signs = t->panels + panel * (t->segs * t->seg / 2) * COLS;
    for (int64_t r = from; r < to; r += ROWS) {
        const uint8_t *row[ROWS];
        int16_t out[ROWS][COLS] __attribute__((aligned(64)));
        const int64_t count = to - r < ROWS ? to - r : ROWS;
        for (int64_t i = 0; i < count; i++) {
            const int64_t x = (r + i) % t->width, y = (r + i) / t->width % t->height, image = (r + i) / t->width / t->height;
            row[i] = t->codes + image * t->image + y * t->line + x * t->pixel;
        }
        tile(t, row, (size_t)count, signs, (size_t)cols, out);
        for (int64_t i = 0; i < count; i++) memcpy(t->out + (r + i) * t->n + col, out[i], (size_t)cols * sizeof(int16_t));
    }
}

/* returns 1 if memory ran out */
int kernels_ternary_product(const ternary_t *t)
{
#ifdef HAVE_AMX
    if (t->isa > 2 && t->segs > 1) return ternary_amx(t); /* a dense layer has too few rows to unpack its signs for */
#endif
    static int made;
    if (!__atomic_load_n(&made, __ATOMIC_ACQUIRE)) {
        make_table(); /* concurrent callers write the same values */
        __atomic_store_n(&made, 1, __ATOMIC_RELEASE);
    }
    const size_t rows = (size_t)(t->images * t->height * t->width), panels = (size_t)((t->n + COLS - 1) / COLS);
    parallel(ternary_task, (void *)t, (rows + BLOCK_ROWS - 1) / BLOCK_ROWS * panels, (int)t->threads);
    return 0;
}
