/* The byte tile: AVX-512 with VNNI, absent elsewhere. */
#ifndef BYTES_H
#define BYTES_H

#include <stddef.h>
#include <stdint.h>

#define BYTE_ROWS 8

/* 1 where byte_tile runs on this machine */
int kernels_has_bytes(void);

/* mr in {1, BYTE_ROWS} rows of 4 * quads bytes, row_bytes = 4 * quads apart, by np in 1..TILE_PANELS panels: for every
 * quad a word whose bits 4 c .. 4 c + 3 are column c's weights, 1 for +1. s: mr rows of sums, TILE_COLS apart. */
void byte_tile(const uint8_t *rows, size_t row_bytes, const uint64_t *panels, size_t quads, int32_t *s, int mr, int np);

#endif
