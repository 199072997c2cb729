/* Activations of -1, 0 and 1 packed for the next product; 2x2 max pooling, forward and backward. */
#include <string.h>

#include "../xnor.h"

#define TASK_ROWS 8 /* rows of pixels */
#define COLS 64     /* of a panel of signs */

/* cpu/step/ternary.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const int8_t *x; /* [images][height][width][channels] */
    int64_t images, height, width, channels, pad;
    uint8_t *codes; /* [images][height + 2 pad][width + 2 pad][codes of a pixel], see ternary.c; the border is left alone */
    int64_t threads;
} codes_t;

/* four bytes of 0 or 1 as four bits */
static inline uint32_t bits_of(uint32_t bytes) { return bytes * 0x01020408u >> 24 & 15; }

static void codes_task(void *context, size_t task)
{
    const codes_t *j = context;
    const int64_t each = (j->channels + 7) / 8 * 2, whole = j->channels / 4, line = j->width + 2 * j->pad;
    const int64_t rows = j->images * j->height, end = ((int64_t)task + 1) * TASK_ROWS;
    for (int64_t row = (int64_t)task * TASK_ROWS; row < (end < rows ? end : rows); row++) {
        const int64_t image = row / j->height, y = row % j->height;
        const int8_t *x = j->x + row * j->width * j->channels;
        uint8_t *out = j->codes + ((image * (j->height + 2 * j->pad) + y + j->pad) * line + j->pad) * each;
        for (int64_t p = 0; p < j->width; p++, x += j->channels, out += each) {
            for (int64_t i = 0; i < whole; i++) {
                uint32_t four;
                memcpy(&four, x + 4 * i, 4);
                const uint32_t some = four & 0x01010101u, below = four >> 7 & 0x01010101u;
                out[i] = (uint8_t)(bits_of(some ^ below) | bits_of(some) << 4);
            }
            for (int64_t i = whole; i < each; i++) {
                uint8_t code = 0;
                for (int64_t c = 4 * i; c < j->channels && c < 4 * i + 4; c++)
                    code |= (uint8_t)((x[c] > 0) << (c % 4) | (x[c] != 0) << (4 + c % 4));
                out[i] = code;
            }
        }
    }
}

int kernels_codes(const codes_t *j)
{
    const size_t rows = (size_t)(j->images * j->height);
    parallel(codes_task, (void *)j, (rows + TASK_ROWS - 1) / TASK_ROWS, (int)j->threads);
    return 0;
}

/* cpu/step/ternary.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const int8_t *x; /* [k][n] */
    int64_t k, n;
    uint8_t *at_least, *above; /* panels of x >= 0 and, if not NULL, of x > 0 */
    int64_t threads;
} panels_of_t;

static void panels_of_task(void *context, size_t panel)
{
    const panels_of_t *j = context;
    const int64_t col = (int64_t)panel * COLS, n = j->n - col < COLS ? j->n - col : COLS, bytes = (j->k + 7) / 8;
    for (int64_t b = 0; b < bytes; b++) {
        uint8_t low[COLS] = {0}, high[COLS] = {0};
        for (int64_t i = 0; i < 8 && 8 * b + i < j->k; i++) {
            const int8_t *x = j->x + (8 * b + i) * j->n + col;
            for (int64_t c = 0; c < n; c++) low[c] |= (uint8_t)((x[c] >= 0) << i), high[c] |= (uint8_t)((x[c] > 0) << i);
        }
        memcpy(j->at_least + ((int64_t)panel * bytes + b) * COLS, low, COLS);
        if (j->above) memcpy(j->above + ((int64_t)panel * bytes + b) * COLS, high, COLS);
    }
}

int kernels_panels_of(const panels_of_t *j)
{
    parallel(panels_of_task, (void *)j, (size_t)((j->n + COLS - 1) / COLS), (int)j->threads);
    return 0;
}

/* cpu/step/norm.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const void *x; /* [images][height][width][channels] int16 or float; backward: float, of half the height and width */
    int64_t kind, images, height, width, channels;
    void *out; /* forward: of half the height and width; backward: [images][height][width][channels] float */
    uint8_t *which; /* of the four, in reading order, the first that is the largest */
    int64_t threads;
} fours_t;

/* a row of channels of four pixels, from `i` to `n` */
#define LARGEST(type, name)                                                                                           \
    static void name(const type *a, const type *b, const type *c, const type *d, int64_t i, int64_t n,                \
                     type *restrict out, uint8_t *restrict which)                                                     \
    {                                                                                                                 \
        for (; i < n; i++) {                                                                                          \
            const type top = b[i] > a[i] ? b[i] : a[i], bottom = d[i] > c[i] ? d[i] : c[i];                           \
            const uint8_t first = b[i] > a[i], second = (uint8_t)(2 + (d[i] > c[i]));                                 \
            out[i] = bottom > top ? bottom : top;                                                                     \
            which[i] = bottom > top ? second : first;                                                                 \
        }                                                                                                             \
    }
LARGEST(int16_t, largest_int16)
LARGEST(float, largest_rest)

typedef float floats_t __attribute__((vector_size(16)));
typedef int32_t ints_t __attribute__((vector_size(16)));
typedef uint8_t bytes_t __attribute__((vector_size(4)));

static inline floats_t load(const float *x)
{
    floats_t four;
    memcpy(&four, x, sizeof four);
    return four;
}

/* of each lane, yes where `some` is -1, no where it is 0 */
static inline ints_t either(ints_t some, ints_t yes, ints_t no) { return (some & yes) | (~some & no); }

/* compilers do not vectorize floats with bytes */
static void largest_float(const float *a, const float *b, const float *c, const float *d, int64_t n, float *out, uint8_t *which)
{
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const floats_t w = load(a + i), x = load(b + i), y = load(c + i), z = load(d + i);
        const ints_t right = x > w, low_right = z > y;
        const ints_t top = either(right, (ints_t)x, (ints_t)w), bottom = either(low_right, (ints_t)z, (ints_t)y);
        const ints_t low = (floats_t)bottom > (floats_t)top, largest = either(low, bottom, top);
        const bytes_t at = __builtin_convertvector(either(low, 2 - low_right, -right), bytes_t);
        memcpy(out + i, &largest, sizeof largest);
        memcpy(which + i, &at, sizeof at);
    }
    largest_rest(a, b, c, d, i, n, out, which);
}

static void pool_task(void *context, size_t task)
{
    const fours_t *j = context;
    const int64_t n = j->channels, row = (int64_t)task * 2 * j->width * n;
    for (int64_t x = 0; x < j->width / 2; x++) {
        const int64_t a = row + 2 * x * n, c = a + j->width * n, to = ((int64_t)task * (j->width / 2) + x) * n;
        if (j->kind == 0) {
            const int16_t *from = j->x;
            largest_int16(from + a, from + a + n, from + c, from + c + n, 0, n, (int16_t *)j->out + to, j->which + to);
        } else {
            const float *from = j->x;
            largest_float(from + a, from + a + n, from + c, from + c + n, n, (float *)j->out + to, j->which + to);
        }
    }
}

/* even height and width */
int kernels_pool(const fours_t *j)
{
    parallel(pool_task, (void *)j, (size_t)(j->images * j->height / 2), (int)j->threads);
    return 0;
}

static void unpool_task(void *context, size_t task)
{
    const fours_t *j = context;
    const int64_t n = j->channels, row = (int64_t)task * 2 * j->width * n;
    for (int64_t x = 0; x < j->width / 2; x++) {
        const int64_t from = ((int64_t)task * (j->width / 2) + x) * n;
        const uint32_t *g = (const uint32_t *)j->x + from; /* bits of float, so that 0 needs no branch */
        const uint8_t *which = j->which + from;
        for (int i = 0; i < 4; i++) {
            uint32_t *restrict out = (uint32_t *)j->out + row + (i / 2 * j->width + 2 * x + i % 2) * n;
            for (int64_t c = 0; c < n; c++) out[c] = g[c] & -(uint32_t)(which[c] == i);
        }
    }
}

int kernels_unpool(const fours_t *j)
{
    parallel(unpool_task, (void *)j, (size_t)(j->images * j->height / 2), (int)j->threads);
    return 0;
}
