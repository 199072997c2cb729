/* Tables of three numbers, looked up one at a time: for machines without AVX2. */
#define TARGET
#define GROUP 3
#define ENTRIES 8
#define TILE 4 /* rows */
#include "lookup_rows.h"

static void tables(int32_t q[][PREPARED], size_t n, int16_t *tables, size_t row)
{
    for (size_t r = 0; r < PREPARED; r++)
        for (size_t g = 0; g < GROUPS(n); g++)
            for (int at = 0; at < ENTRIES; at++) {
                int sum = 0;
                for (int b = 0; b < GROUP; b++) sum += at >> b & 1 ? q[g * GROUP + (size_t)b][r] : 0;
                tables[r * row + g * ENTRIES + (size_t)at] = (int16_t)sum;
            }
}

static void codes(const uint8_t *panel, size_t n, uint16_t *codes)
{
    const size_t bytes = (n + 7) / 8;
    for (size_t bit = 0; bit < n; bit += GROUP, codes += PANEL) {
        const uint8_t *low = panel + bit / 8 * PANEL, *high = bit / 8 + 1 < bytes ? low + PANEL : low;
        const int shift = (int)(bit % 8);
        for (size_t c = 0; c < PANEL; c++) {
            const unsigned two = low[c] | (unsigned)high[c] << 8;
            codes[c] = (uint16_t)(two >> shift & (ENTRIES - 1));
        }
    }
}

static void codes_of(const int8_t *const *rows, size_t groups, size_t columns, uint16_t *codes)
{
    for (size_t g = 0; g < groups; g++, rows += GROUP, codes += PANEL)
        for (size_t c = 0; c < columns; c++) {
            unsigned at = 0;
            for (size_t i = 0; i < GROUP; i++) at |= (unsigned)(rows[i][c] > 0) << i;
            codes[c] = (uint16_t)at;
        }
}

static void tile(const int16_t *const *tables, const int16_t *start, const float *factor, const uint16_t *codes, size_t groups,
                 size_t planes, int first, size_t columns, float *sums, size_t across)
{
    for (size_t r = 0; r < TILE; r++) {
        uint16_t sum[PANEL];
        for (size_t c = 0; c < columns; c++) sum[c] = (uint16_t)start[r];
        for (size_t g = 0; g < planes * groups; g++)
            for (size_t c = 0; c < columns; c++)
                sum[c] = (uint16_t)(sum[c] + tables[r][g % groups * ENTRIES + codes[g * PANEL + c]]);
        for (size_t c = 0; c < columns; c++) {
            float *to = sums + r * across + c;
            *to = (first ? 0 : *to) + factor[r] * (float)(int16_t)sum[c];
        }
    }
}

const lookup_isa_t lookup_portable = {
    GROUP, ENTRIES, PANEL, TILE, lookup_nothing, lookup_nothing, quantize, tables, codes, codes_of, tile,
};
