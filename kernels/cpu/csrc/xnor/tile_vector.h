/* The tile and the comparison for machines without a vector popcount, in the compiler's own vectors: 4 rows by LANES
 * columns, V lanes at a time. The including file defines TARGET, V, vec_t (V uint32), BYTE_COUNTS(v) (the popcount of
 * each byte of v) and FOLD(v) (the sum of each lane's four bytes, which may be up to 255). */

#define INLINE static inline __attribute__((always_inline)) TARGET
#define FLUSH 31 /* steps that add at most 8 to a byte before it could overflow */

INLINE vec_t load(const void *p)
{
    vec_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

INLINE void tile_lanes(const tile_t *t, const row_t *row, size_t r, const int MR, const uint32_t *panel, size_t col)
{
    vec_t ones[TILE_ROWS], twos[TILE_ROWS], bytes[TILE_ROWS];
    for (int i = 0; i < MR; i++) ones[i] = twos[i] = bytes[i] = (vec_t){0};

    int room = FLUSH;
    for (size_t s = 0; s < t->segs; s++) {
        const uint32_t *a[TILE_ROWS];
        for (int i = 0; i < MR; i++) a[i] = row[r + i].from + t->offset + s * t->seg_stride;
        for (size_t k = 0; k < t->pairs; k++, panel += PAIR) {
            const vec_t lo = load(panel), both = load(panel + LANES);
            for (int i = 0; i < MR; i++) {
                const vec_t differ = both ^ a[i][2 * k + 1];
                const vec_t x = lo ^ a[i][2 * k];
                const vec_t carry = x ^ (differ & (x ^ ones[i])); /* halves differ: the carry in; else either half */
                ones[i] ^= differ;
                bytes[i] += BYTE_COUNTS(carry);
            }
            if (--room == 0) {
                for (int i = 0; i < MR; i++) twos[i] += FOLD(bytes[i]), bytes[i] = (vec_t){0};
                room = FLUSH;
            }
        }
    }
    for (int i = 0; i < MR; i++) {
        const vec_t count = FOLD(BYTE_COUNTS(ones[i])) + 2 * (twos[i] + FOLD(bytes[i]));
        const int32_t *from = t->in ? t->in + (r + i) * TILE_COLS : row[r + i].start + t->col;
        const vec_t dot = load(from + col) - 2 * count;
        __builtin_memcpy(t->out + (r + i) * t->out_stride + col, &dot, sizeof dot);
    }
}

static TARGET void tiles(const tile_t *t, const row_t *row, size_t rows, int np)
{
    for (size_t r = 0; r < rows; r += TILE_ROWS)
        for (int j = 0; j < np; j++)
            for (int l = 0; l < LANES; l += V) {
                const uint32_t *panel = t->panels + j * t->panel_stride + l;
                const size_t col = j * LANES + l;
                switch (rows - r) {
                    case 1: tile_lanes(t, row, r, 1, panel, col); break;
                    case 2: tile_lanes(t, row, r, 2, panel, col); break;
                    case 3: tile_lanes(t, row, r, 3, panel, col); break;
                    default: tile_lanes(t, row, r, 4, panel, col); break;
                }
            }
}

static TARGET void compare(const int32_t *dot, size_t rows, int np, const int32_t *level, const int32_t *flip,
                           uint8_t *bits, size_t bits_stride)
{
    for (size_t r = 0; r < rows; r++, dot += TILE_COLS, bits += bits_stride)
        for (int i = 0; i < np * LANES; i += 8) {
            unsigned byte = 0;
            for (int l = i; l < i + 8; l++) byte |= (unsigned)((dot[l] ^ flip[l]) >= level[l]) << (l - i);
            bits[i / 8] = (uint8_t)byte;
        }
}

/* Packing: POS(v) and IS_NAN(v) of one element */
#define PACK_ROW(name, type, POS, IS_NAN)                                                          \
    static TARGET int name(const void *row, size_t k, uint64_t *words)                             \
    {                                                                                              \
        const type *p = row;                                                                       \
        int nan = 0;                                                                               \
        for (size_t i = 0; i < k; i += 64, p += 64) {                                              \
            const size_t left = k - i < 64 ? k - i : 64;                                           \
            uint64_t word = 0;                                                                     \
            for (size_t j = 0; j < left; j++) {                                                    \
                const type v = p[j];                                                               \
                word |= (uint64_t)(POS) << j;                                                      \
                nan |= (IS_NAN);                                                                   \
            }                                                                                      \
            words[i / 64] = word;                                                                  \
        }                                                                                          \
        return nan;                                                                                \
    }

PACK_ROW(pack_f32, float, v >= 0, v != v)
PACK_ROW(pack_f64, double, v >= 0, v != v)
/* as unsigned numbers, +0.0 .. +inf and -0.0 (0x8000) are at most 0x8000 */
PACK_ROW(pack_f16, uint16_t, v <= 0x8000, (v & 0x7fff) > 0x7c00)
PACK_ROW(pack_bf16, uint16_t, v <= 0x8000, (v & 0x7fff) > 0x7f80)
PACK_ROW(pack_i8, int8_t, v >= 0, 0)
PACK_ROW(pack_i16, int16_t, v >= 0, 0)
PACK_ROW(pack_i32, int32_t, v >= 0, 0)
PACK_ROW(pack_i64, int64_t, v >= 0, 0)
PACK_ROW(pack_bool, uint8_t, v != 0, 0)

static int64_t spin(int64_t steps)
{
    (void)steps;
    return 0;
}

#define ISA_TABLE                                                                                  \
    {                                                                                              \
        tiles, compare,                                                                            \
            {pack_f32, pack_f64, pack_f16, pack_bf16, pack_i8, pack_i16, pack_i32, pack_i64, pack_bool}, \
            spin,                                                                                  \
    }
