/* The entry points called from Python: packing, panels, and the product over tiles. A matrix product is the
 * convolution of M images of one pixel by 1x1 taps. */
#include <string.h>

#include "../amx.h"

#define BLOCK_ROWS 128  /* rows multiplied by one group of panels before the next group is loaded */
#define RUN_ROWS 32     /* rows whose results stay in the first-level cache until they are compared */
#define CHUNK_PAIRS 80  /* words of a panel group that stay in the first-level cache */
#define STREAM_BYTES (1 << 25) /* a result of this size is written with stores that bypass the caches (LARGE of arrays.py) */
#define MIN_CHUNK 4096  /* words: a task of packing, lifting or panel building */
#define TASKS_EACH 4    /* tasks for each thread, so that a slow thread does not delay the others: at least this many, */
#define TASKS_MOST 64   /* and at most this many, if each task still has */
#define TASK_WORDS (1 << 20) /* this many words of work, about 20 microseconds */

const isa_t *isa_table(int level)
{
#ifdef HAVE_X86
    if (level >= 2) return &isa_avx512;
    if (level == 1) return &isa_avx2;
#endif
    (void)level;
    return &isa_portable;
}

/* the best level this machine runs: 0 portable, 1 AVX2, 2 AVX-512 with VPOPCNTDQ, 3 AMX as well */
int kernels_level(void)
{
#ifdef HAVE_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vpopcntdq")) {
#ifdef HAVE_AMX
        if (amx_usable()) return 3;
#endif
        return 2;
    }
    if (__builtin_cpu_supports("avx2")) return 1;
#endif
    return 0;
}

static size_t min(size_t a, size_t b) { return a < b ? a : b; }

/* ---- packing ---- */

typedef struct {
    const isa_t *isa;
    const char *from;
    ptrdiff_t row_bytes;
    size_t rows, k, chunk;
    int dtype, nan;
    uint64_t *words;
} pack_t;

static void pack_task(void *context, size_t task)
{
    pack_t *p = context;
    const size_t words = (p->k + 63) / 64, end = min(p->rows, (task + 1) * p->chunk);
    int nan = 0;
    for (size_t r = task * p->chunk; r < end; r++)
        nan |= p->isa->pack[p->dtype](p->from + (ptrdiff_t)r * p->row_bytes, p->k, p->words + r * words);
    if (nan) __atomic_store_n(&p->nan, 1, __ATOMIC_RELAXED);
}

/* returns 1 if a NaN was met, else 0 */
int kernels_pack(int level, int threads, int dtype, const void *from, int64_t row_bytes, int64_t rows, int64_t k,
                 uint64_t *words)
{
    const size_t chunk = 1 + MIN_CHUNK / (((size_t)k + 63) / 64);
    pack_t p = {isa_table(level), from, row_bytes, (size_t)rows, (size_t)k, chunk, dtype, 0, words};
    parallel(pack_task, &p, (p.rows + p.chunk - 1) / p.chunk, threads);
    return p.nan;
}

/* ---- panels of the right operand ---- */

typedef struct {
    const uint64_t *words;
    size_t n, row_words, pairs;
    uint32_t *panels;
} panels_t;

static void panel_task(void *context, size_t task)
{
    const panels_t *p = context;
    uint32_t *panel = p->panels + task * p->pairs * PAIR;
    memset(panel, 0, p->pairs * PAIR * sizeof *panel);
    for (size_t l = 0; l < LANES && task * LANES + l < p->n; l++) {
        const uint64_t *row = p->words + (task * LANES + l) * p->row_words;
        for (size_t k = 0; k < p->row_words; k++) {
            panel[k * PAIR + l] = (uint32_t)row[k];
            panel[k * PAIR + LANES + l] = (uint32_t)(row[k] ^ (row[k] >> 32));
        }
    }
}

/* n rows of row_words words to (n + LANES - 1) / LANES panels of `pairs` >= row_words words */
void kernels_panels(int threads, const uint64_t *words, int64_t n, int64_t row_words, int64_t pairs, uint32_t *panels)
{
    panels_t p = {words, (size_t)n, (size_t)row_words, (size_t)pairs, panels};
    const size_t count = (p.n + LANES - 1) / LANES;
    parallel(panel_task, &p, count, count * p.pairs * LANES < MIN_CHUNK ? 1 : threads);
}

/* ---- the product ---- */

/* cpu/products.py has the same fields in the same order, each 64 bits wide. */
typedef struct {
    const uint64_t *words;      /* (images, height, width, pixel_words) */
    uint64_t *lifted;           /* scratch: (images, height + 2 pad, width + 2 pad, lifted_words) */
    int64_t images, height, width, pixel_words, lifted_words;
    int64_t pad, stride, out_h, out_w;
    int64_t segs, pairs, seg_words; /* how a row is walked: `segs` runs of `pairs` words, seg_words apart */
    const uint32_t *panels;
    int64_t n;
    const int32_t *start;       /* rows of panels * LANES: the product where no bit differs; start_y[y] + start_x[x] */
    const int64_t *start_y, *start_x; /* (out_h), (out_w): is where the row of output pixel (y, x) begins */
    int32_t *out;               /* (images * out_h * out_w, n), or NULL for packed bits: */
    uint8_t *bits;              /* zeroed rows of bits_bytes */
    int64_t bits_bytes;
    const int32_t *level, *flip; /* (panels * LANES) each */
    int64_t isa, threads;
    int64_t ready;              /* nonzero: `lifted` is filled already */
} job_t;

typedef struct {
    const job_t *j;
    const isa_t *isa;
    size_t rows, block, blocks, groups, splits, panels, padded_w, lift_chunk;
    int stream;
} plan_t;

static void lift_run(const uint64_t *from, uint64_t *to, size_t n)
{
    for (size_t i = 0; i < n; i++) to[i] = from[i] ^ (from[i] << 32);
}

static void lift_task(void *context, size_t task)
{
    const plan_t *p = context;
    const job_t *j = p->j;
    const size_t height = (size_t)j->height, pad = (size_t)j->pad, padded_h = height + 2 * pad;
    const size_t width = (size_t)j->width, words = (size_t)j->pixel_words, lifted = (size_t)j->lifted_words;
    const size_t end = min((size_t)j->images * padded_h, (task + 1) * p->lift_chunk);
    for (size_t line = task * p->lift_chunk; line < end; line++) {
        uint64_t *to = j->lifted + line * p->padded_w * lifted;
        const size_t y = line % padded_h;
        if (y < pad || y >= pad + height) {
            memset(to, 0, p->padded_w * lifted * sizeof *to);
            continue;
        }
        const uint64_t *from = j->words + (line / padded_h * height + y - pad) * width * words;
        memset(to, 0, pad * lifted * sizeof *to);
        to += pad * lifted;
        if (words == lifted) {
            lift_run(from, to, width * words);
        } else {
            for (size_t x = 0; x < width; x++) {
                lift_run(from + x * words, to + x * lifted, words);
                memset(to + x * lifted + words, 0, (lifted - words) * sizeof *to);
            }
        }
        memset(to + width * lifted, 0, pad * lifted * sizeof *to);
    }
}

static void find_rows(const plan_t *p, size_t row0, size_t rows, row_t *row)
{
    const job_t *j = p->j;
    const size_t out_w = (size_t)j->out_w, out_h = (size_t)j->out_h, stride = (size_t)j->stride;
    size_t x = row0 % out_w, y = row0 / out_w % out_h, image = row0 / out_w / out_h;
    for (size_t r = 0; r < rows; r++) {
        const size_t line = image * (size_t)(j->height + 2 * j->pad) + y * stride;
        row[r].from = (const uint32_t *)(j->lifted + (line * p->padded_w + x * stride) * (size_t)j->lifted_words);
        row[r].start = j->start + j->start_y[y] + j->start_x[x];
        if (++x == out_w) {
            x = 0;
            if (++y == out_h) y = 0, image++;
        }
    }
}

static void product_task(void *context, size_t task)
{
    const plan_t *p = context;
    const job_t *j = p->j;
    const size_t row0 = task / p->splits * p->block, rows = min(p->block, p->rows - row0);
    const size_t split = task % p->splits, end = (split + 1) * p->groups / p->splits;
    const size_t segs = (size_t)j->segs, pairs = (size_t)j->pairs, n = (size_t)j->n;
    const size_t chunk = pairs * segs <= CHUNK_PAIRS ? segs : pairs < CHUNK_PAIRS ? CHUNK_PAIRS / pairs : 1;

    row_t row[BLOCK_ROWS];
    find_rows(p, row0, rows, row);

    _Alignas(64) int32_t held[BLOCK_ROWS * TILE_COLS];
    tile_t t = {.panel_stride = segs * pairs * PAIR, .pairs = pairs, .seg_stride = 2 * (size_t)j->seg_words};
    for (size_t g = split * p->groups / p->splits; g < end; g++) {
        const size_t panel0 = g * TILE_PANELS, col = panel0 * LANES;
        const int np = (int)min(TILE_PANELS, p->panels - panel0);
        const size_t cols = min((size_t)np * LANES, n - col);
        const int direct = j->out != NULL && cols == (size_t)np * LANES;
        t.col = col;
        for (size_t s = 0; s < segs; s += chunk) {
            const int last = s + chunk >= segs, place = direct && last;
            t.panels = j->panels + panel0 * t.panel_stride + s * pairs * PAIR;
            t.offset = s * t.seg_stride;
            t.segs = min(chunk, segs - s);
            t.out_stride = place ? n : TILE_COLS;
            t.stream = place && p->stream;
            for (size_t r = 0; r < rows; r += RUN_ROWS) {
                const size_t run = min(RUN_ROWS, rows - r);
                int32_t *wait = held + (chunk < segs ? r * TILE_COLS : 0);
                t.in = s ? wait : NULL;
                t.out = place ? j->out + (row0 + r) * n + col : wait;
                p->isa->tiles(&t, row + r, run, np);
                if (place || !last) continue;
                if (j->out)
                    for (size_t i = 0; i < run; i++)
                        memcpy(j->out + (row0 + r + i) * n + col, t.out + i * TILE_COLS, cols * sizeof *t.out);
                else
                    p->isa->compare(t.out, run, np, j->level + col, j->flip + col,
                                    j->bits + (row0 + r) * (size_t)j->bits_bytes + col / 8, (size_t)j->bits_bytes);
            }
        }
    }
    if (p->stream) __atomic_thread_fence(__ATOMIC_SEQ_CST); /* later stores do not order these */
}

void kernels_product(const job_t *j)
{
    plan_t p = {.j = j, .isa = isa_table((int)j->isa)};
    p.rows = (size_t)(j->images * j->out_h * j->out_w);
    p.panels = ((size_t)j->n + LANES - 1) / LANES;
    p.groups = (p.panels + TILE_PANELS - 1) / TILE_PANELS;
    if (p.rows == 0 || p.groups == 0) return;
    p.padded_w = (size_t)(j->width + 2 * j->pad);
    const size_t words = p.rows * p.panels * LANES * (size_t)(j->segs * j->pairs);
    const int threads = words < 16 * MIN_CHUNK ? 1 : (int)j->threads;

    const size_t lines = (size_t)(j->images * (j->height + 2 * j->pad));
    p.lift_chunk = 1 + MIN_CHUNK / (p.padded_w * (size_t)j->lifted_words);
    if (!j->ready) parallel(lift_task, &p, (lines + p.lift_chunk - 1) / p.lift_chunk, threads);

    const size_t bytes = p.rows * (size_t)j->n * sizeof *j->out;
    p.stream = j->out && bytes >= STREAM_BYTES && (uintptr_t)j->out % 64 == 0 && j->n % LANES == 0;

    p.block = min(BLOCK_ROWS, p.rows);
    p.blocks = (p.rows + p.block - 1) / p.block;
    const size_t least = (size_t)threads * TASKS_EACH, most = (size_t)threads * TASKS_MOST;
    const size_t wanted = words / TASK_WORDS, tasks = threads == 1 ? 1 : wanted < least ? least : min(wanted, most);
    p.splits = min(p.groups, (tasks + p.blocks - 1) / p.blocks);
    parallel(product_task, &p, p.blocks * p.splits, threads);
}

/* ---- the roofline ---- */

typedef struct {
    const isa_t *isa;
    int64_t steps, words;
} spin_t;

static void spin_task(void *context, size_t task)
{
    (void)task;
    spin_t *s = context;
    __atomic_fetch_add(&s->words, s->steps * s->isa->spin(s->steps), __ATOMIC_RELAXED);
}

/* `steps` in-register steps on each of `threads` threads; returns the 32-bit words popcounted in all */
int64_t kernels_spin(int level, int threads, int64_t steps)
{
    spin_t s = {isa_table(level), steps, 0};
    parallel(spin_task, &s, (size_t)threads, threads);
    return s.words;
}
