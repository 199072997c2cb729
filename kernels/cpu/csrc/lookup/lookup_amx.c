/* AMX: no tables but products of bytes. A number q is 256 high + low modulo 2^16; its bytes are multiplied by 1 where the sign
 * is + and by 0 where it is -, and both sums are joined in the end. */
#include "../amx.h"

#ifdef HAVE_AMX
#include <immintrin.h>
#include <string.h>

#define TARGET AMX_TARGET
#define GROUP 64
#define ENTRIES 64 /* of each row and group the low bytes, then the high bytes */
#include "lookup_rows.h"

#define INLINE __attribute__((always_inline)) TARGET static inline
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#define ROWS 16           /* of a tile */
#define LINE 64           /* bytes of a row of a tile */
#define CODES (64 * 32)   /* uint16 of a group: of every 16 columns 16 lines, each four numbers of every column */
#define PAIR_BYTES (2 * ROWS * LINE) /* of codes: 32 columns of a group */

/* out[i] has element i of every x */
INLINE void transpose(const __m512i *x, __m512i *out)
{
    __m512i two[16], four[16];
    EACH(i, 8)
    {
        two[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
        two[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
    }
    EACH(i, 4)
    EACH(h, 2)
    {
        four[4 * i + 2 * h] = _mm512_unpacklo_epi64(two[4 * i + h], two[4 * i + 2 + h]);
        four[4 * i + 2 * h + 1] = _mm512_unpackhi_epi64(two[4 * i + h], two[4 * i + 2 + h]);
    }
    EACH(c, 4)
    {
        const __m512i a = _mm512_shuffle_i32x4(four[c], four[4 + c], 0x88), b = _mm512_shuffle_i32x4(four[c], four[4 + c], 0xDD);
        const __m512i d = _mm512_shuffle_i32x4(four[8 + c], four[12 + c], 0x88);
        const __m512i e = _mm512_shuffle_i32x4(four[8 + c], four[12 + c], 0xDD);
        out[c] = _mm512_shuffle_i32x4(a, d, 0x88), out[8 + c] = _mm512_shuffle_i32x4(a, d, 0xDD);
        out[4 + c] = _mm512_shuffle_i32x4(b, e, 0x88), out[12 + c] = _mm512_shuffle_i32x4(b, e, 0xDD);
    }
}

TARGET static void tables(int32_t q[][PREPARED], size_t n, int16_t *tables, size_t row)
{
    _Alignas(64) uint8_t from[LINE]; /* of byte `half` of row r, number k: where packing puts it */
    for (int half = 0; half < 2; half++)
        for (int r = 0; r < PREPARED; r++)
            for (int k = 0; k < 4; k++)
                from[(half * PREPARED + r) * 4 + k] = (uint8_t)((k % 2 * 2 + r / 4) * 16 + (k / 2 * 4 + r % 4) * 2 + half);
    const __m512i order = _mm512_load_si512(from), words = _mm512_set1_epi32(0xFFFF);
    for (size_t g = 0; g < GROUPS(n); g++, q += GROUP, tables += ENTRIES) {
        __m512i fours[16], lines[16]; /* four numbers: the low bytes of every row, then the high bytes */
        EACH(i, 16)
        {
            const __m512i a = _mm512_and_si512(_mm512_loadu_si512(q[4 * i]), words);
            const __m512i b = _mm512_and_si512(_mm512_loadu_si512(q[4 * i + 2]), words);
            fours[i] = _mm512_permutexvar_epi8(order, _mm512_packus_epi32(a, b));
        }
        transpose(fours, lines);
        EACH(r, PREPARED)
        {
            _mm512_store_si512(tables + (size_t)r * row, lines[r]);
            _mm512_store_si512(tables + (size_t)r * row + ENTRIES / 2, lines[PREPARED + r]);
        }
    }
}

/* Lines of numbers beyond n are not written: whatever they hold is multiplied by zero. */
TARGET static void codes(const uint8_t *panel, size_t n, uint16_t *codes)
{
    uint8_t *to = (uint8_t *)codes;
    const __m512i fourfold = _mm512_set_epi32(0x0F0F0F0F, 0x0E0E0E0E, 0x0D0D0D0D, 0x0C0C0C0C, 0x0B0B0B0B, 0x0A0A0A0A, 0x09090909,
                                              0x08080808, 0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202,
                                              0x01010101, 0);
    for (size_t k = 0; k < n; k += 4) {
        const __m512i bits = _mm512_set1_epi32(k % 8 ? (int)0x80402010 : 0x08040201);
        for (size_t c = 0; c < PANEL; c += 16) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(panel + k / 8 * PANEL + c));
            const __mmask64 set = _mm512_test_epi8_mask(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes), fourfold), bits);
            uint8_t *line = to + (k / GROUP * CODES * 2) + (c / 16 * ROWS + k % GROUP / 4) * LINE;
            _mm512_store_si512(line, _mm512_maskz_set1_epi8(set, 1));
        }
    }
}

TARGET static void codes_of(const int8_t *const *rows, size_t groups, size_t columns, uint16_t *codes)
{
    uint8_t *to = (uint8_t *)codes;
    _Alignas(64) uint8_t from[LINE];
    for (int c = 0; c < 16; c++)
        for (int k = 0; k < 4; k++) from[c * 4 + k] = (uint8_t)(k * 16 + c);
    const __m512i order = _mm512_load_si512(from), none = _mm512_setzero_si512();
    for (size_t k = 0; k < groups * GROUP; k += 4)
        for (size_t c = 0; c < columns; c += 16) {
            __m512i four = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(rows[k] + c)));
            four = _mm512_inserti32x4(four, _mm_loadu_si128((const __m128i *)(rows[k + 1] + c)), 1);
            four = _mm512_inserti32x4(four, _mm_loadu_si128((const __m128i *)(rows[k + 2] + c)), 2);
            four = _mm512_inserti32x4(four, _mm_loadu_si128((const __m128i *)(rows[k + 3] + c)), 3);
            uint8_t *line = to + (k / GROUP * CODES * 2) + (c / 16 * ROWS + k % GROUP / 4) * LINE;
            _mm512_store_si512(line, _mm512_max_epi8(_mm512_permutexvar_epi8(order, four), none));
        }
}

/* `first` and `halves` of 32 columns are constants: all products come before the sums are used, as these wait for them */
INLINE void tile_for(const char *a, size_t stride, const int16_t *start, const float *factor, const char *b, size_t groups,
                     const int first, const int halves, float *sums, size_t across)
{
    _Alignas(64) int32_t part[2][4][ROWS][16]; /* of each half: low and high of 16 columns, low and high of the next */
    EACH(h, halves)
    {
        const char *right = b + h * PAIR_BYTES;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (size_t g = 0; g < groups; g++, right += CODES * 2) {
            const char *left = a + g * ENTRIES * 2;
            _tile_loadd(4, left, stride);
            _tile_loadd(6, right, LINE);
            _tile_dpbuud(0, 4, 6);
            _tile_loadd(5, left + LINE, stride);
            _tile_dpbuud(1, 5, 6);
            _tile_loadd(7, right + ROWS * LINE, LINE);
            _tile_dpbuud(2, 4, 7);
            _tile_dpbuud(3, 5, 7);
        }
        _tile_stored(0, part[h][0], LINE);
        _tile_stored(1, part[h][1], LINE);
        _tile_stored(2, part[h][2], LINE);
        _tile_stored(3, part[h][3], LINE);
    }
    EACH(h, halves)
    for (int r = 0; r < ROWS; r++) {
        const __m512 scale = _mm512_set1_ps(factor[r] * 0x1p-16f);
        const __m512i from = _mm512_set1_epi32((int)((uint32_t)start[r] << 16));
        EACH(v, 2)
        {
            const __m512i low = _mm512_slli_epi32(_mm512_load_si512(part[h][2 * v][r]), 16); /* all 2^16 times the sums */
            const __m512i high = _mm512_slli_epi32(_mm512_load_si512(part[h][2 * v + 1][r]), 24);
            const __m512i wide = _mm512_add_epi32(_mm512_add_epi32(low, high), from);
            float *to = sums + (size_t)r * across + 32 * h + 16 * v;
            const __m512 before = first ? _mm512_setzero_ps() : _mm512_load_ps(to);
            _mm512_store_ps(to, _mm512_add_ps(before, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(wide))));
        }
    }
}

TARGET static void tile(const int16_t *const *tables, const int16_t *start, const float *factor, const uint16_t *codes,
                        size_t groups, size_t planes, int first, size_t columns, float *sums, size_t across)
{
    (void)planes; /* one */
    _Alignas(64) int16_t copy[ROWS][MOST / GROUP * ENTRIES];
    const int16_t *a = tables[0];
    ptrdiff_t stride = tables[1] - a;
    int even = 1;
    for (int r = 2; r < ROWS; r++) even &= tables[r] - a == r * stride;
    if (!even) { /* around the border of an image */
        for (int r = 0; r < ROWS; r++)
            for (size_t i = 0; i < groups * ENTRIES; i += 32)
                _mm512_store_si512(copy[r] + i, _mm512_load_si512(tables[r] + i));
        a = copy[0], stride = copy[1] - copy[0];
    }
    __asm__ volatile("" ::: "memory"); /* the compiler does not know that loading a tile reads memory */
    const char *left = (const char *)a, *right = (const char *)codes;
    const size_t bytes = (size_t)(2 * stride);
    if (columns > 32) {
        if (first)
            tile_for(left, bytes, start, factor, right, groups, 1, 2, sums, across);
        else
            tile_for(left, bytes, start, factor, right, groups, 0, 2, sums, across);
    } else if (first)
        tile_for(left, bytes, start, factor, right, groups, 1, 1, sums, across);
    else
        tile_for(left, bytes, start, factor, right, groups, 0, 1, sums, across);
}

const lookup_isa_t lookup_amx = {GROUP, ENTRIES, CODES, ROWS, amx_begin, amx_end, quantize, tables, codes, codes_of, tile};
#endif
