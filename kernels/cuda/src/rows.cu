// Packing, unpacking, row counts, thresholds, the rows of a convolution, pooling, the last layer's decision. A warp
// processes one piece of a row and strides over the pieces. Packed rows are `words` 32-bit words, a multiple of 4.

template <typename T>
__device__ __forceinline__ bool sign_of(T x) { return x >= T(0); }
template <typename T>
__device__ __forceinline__ bool is_nan(T x) { return x != x; }

struct Half { unsigned short raw; };
struct Brain { unsigned short raw; };
struct Truth { unsigned char raw; };
__device__ __forceinline__ bool half_sign(unsigned short raw) { return !(raw >> 15) || !(raw & 0x7fff); }
template <>
__device__ __forceinline__ bool sign_of(Half x) { return half_sign(x.raw); }
template <>
__device__ __forceinline__ bool is_nan(Half x) { return (x.raw & 0x7fff) > 0x7c00; }
template <>
__device__ __forceinline__ bool sign_of(Brain x) { return half_sign(x.raw); }
template <>
__device__ __forceinline__ bool is_nan(Brain x) { return (x.raw & 0x7fff) > 0x7f80; }
template <>
__device__ __forceinline__ bool sign_of(Truth x) { return x.raw != 0; }
template <>
__device__ __forceinline__ bool is_nan(Truth) { return false; }

__device__ __forceinline__ long long first_warp() {
    return ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
}
__device__ __forceinline__ long long warps() { return (long long)gridDim.x * blockDim.x / 32; }

// Each piece is 1024 elements: lane i of a warp ends up with the i-th of its 32 words.
template <typename T>
__device__ void pack_rows(const T* x, u32* out, int* nan, long long rows, long long k, long long words) {
    const int lane = threadIdx.x % 32;
    const long long pieces = (words + 31) / 32;
    bool bad = false;
    for (long long piece = first_warp(); piece < rows * pieces; piece += warps()) {
        const long long row = piece / pieces;
        const long long start = piece % pieces * 1024;
        const T* source = x + row * k + start;
        const long long left = k - start;
        u32 mine = 0;
#pragma unroll 8
        for (int i = 0; i < 32; i++) {
            const int at = i * 32 + lane;
            bool bit = false;
            if (at < left) {
                const T value = source[at];
                bit = sign_of(value);
                bad |= is_nan(value);
            }
            const u32 word = __ballot_sync(0xffffffffu, bit);
            if (lane == i) mine = word;
        }
        const long long word = start / 32 + lane;
        if (word < words) out[row * words + word] = mine;
    }
    if (bad) *nan = 1;
}

#define PACK(name, T)                                                                                        \
    extern "C" __global__ void pack_##name(const T* x, u32* out, int* nan, long long rows, long long k,      \
                                           long long words) {                                                \
        pack_rows(x, out, nan, rows, k, words);                                                              \
    }
PACK(float32, float)
PACK(float64, double)
PACK(float16, Half)
PACK(bfloat16, Brain)
PACK(int8, signed char)
PACK(int16, short)
PACK(int32, int)
PACK(int64, long long)
PACK(bool, Truth)

extern "C" __global__ void count_rows(const u32* x, int* out, long long rows, long long words) {
    const int lane = threadIdx.x % 32;
    for (long long row = first_warp(); row < rows; row += warps()) {
        int sum = 0;
        for (long long i = lane; i < words; i += 32) sum += __popc(x[row * words + i]);
        for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (lane == 0) out[row] = sum;
    }
}

// From `starts` (classes, n) the table (classes, pitch): base, start - 2 |b_n| or without counts start itself; with
// levels, level - base (common.cuh).
extern "C" __global__ void table_of(const int* starts, const int* counts, const int* level, int* table,
                                    long long classes, long long n, long long pitch) {
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < classes * pitch; i += step) {
        const long long col = i % pitch;
        u32 value = level ? 0x7fffffffu : 0u;
        if (col < n) {
            const u32 base = u32(starts[i / pitch * n + col]) - (counts ? 2u * u32(counts[col]) : 0u);
            value = level ? u32(level[col]) - base : base;
        }
        table[i] = int(value);
    }
}

// Floats of packed rows, 1 and `low` (-1 or 0): (rows, k), or transposed, (k, rows), if `turned`.
extern "C" __global__ void unpack_float(const u32* x, float* out, long long rows, long long k, long long words,
                                        long long turned, long long low) {
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < rows * k; i += step) {
        const long long row = turned ? i % rows : i / k;
        const long long at = turned ? i / rows : i % k;
        out[i] = x[row * words + at / 32] >> (at % 32) & 1 ? 1.0f : float(low);
    }
}

__device__ __forceinline__ int finish_one(const Job& job, long long at, long long col, int value) {
    const Row row = row_of(job, at);
    return dot_of<4>(row, row.base[col], value);
}

// Integers from a product of floats: unchanged for ±1; by the and form for {0, 1} (job.base is given).
extern "C" __global__ void finish_float(const __grid_constant__ Job job, const float* x) {
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < job.m * job.n; i += step) {
        const int value = __float2int_rn(x[i]);
        job.out[i] = job.base ? finish_one(job, i / job.n, i % job.n, value) : value;
    }
}

// bits of dot >= level, inverted where the rule is the opposite; units last
extern "C" __global__ void threshold_rows(const int* dot, u32* out, const int* level, const u32* turn,
                                          long long rows, long long n, long long words) {
    const int lane = threadIdx.x % 32;
    for (long long piece = first_warp(); piece < rows * words; piece += warps()) {
        const long long row = piece / words;
        const long long index = piece % words;
        const long long col = index * 32 + lane;
        const bool bit = col < n && dot[row * n + col] >= level[col];
        const u32 word = __ballot_sync(0xffffffffu, bit);
        if (lane == 0) out[piece] = word ^ turn[index];
    }
}

struct Windows {
    const uint4* x;  // (images, height, width, granules)
    uint4* out;      // (images * out_h * out_w, kh, kw, granules), zero outside the image
    int* cls;        // class of each output row: class_y[y] * classes_x + class_x[x]
    const int* class_y;
    const int* class_x;
    long long images, height, width, granules, kh, kw, padding, stride, out_h, out_w, classes_x;
};

// There are fewer than 2^32 granules, so that 32-bit divisions suffice.
extern "C" __global__ void windows(const __grid_constant__ Windows w) {
    const u32 granules = u32(w.granules), kw = u32(w.kw), out_w = u32(w.out_w), out_h = u32(w.out_h);
    const u32 per_row = u32(w.kh) * kw * granules;
    const u64 total = u64(w.images) * out_h * out_w * per_row;
    for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += u64(gridDim.x) * blockDim.x) {
        const u32 row = u32(i) / per_row, in_row = u32(i) % per_row;
        const u32 tap = in_row / granules;
        const u32 ox = row % out_w, line = row / out_w;
        const u32 oy = line % out_h, image = line / out_h;
        const long long y = oy * w.stride - w.padding + tap / kw;
        const long long x = ox * w.stride - w.padding + tap % kw;
        uint4 value = make_uint4(0, 0, 0, 0);
        if (y >= 0 && y < w.height && x >= 0 && x < w.width)
            value = w.x[((image * w.height + y) * w.width + x) * granules + in_row % granules];
        w.out[i] = value;
        if (in_row == 0) w.cls[row] = int(w.class_y[oy] * w.classes_x + w.class_x[ox]);
    }
}

struct Pixels {
    const unsigned char* x;  // (images, height, width, channels)
    uint4* out;              // (images * out_h * out_w, granules): windows kh x kw x channels, then zeros; zero outside
    int* cls;                // class of each output row, as in Windows
    const int* class_y;
    const int* class_x;
    long long images, height, width, channels, kh, kw, padding, out_h, out_w, granules, classes_x;
};

extern "C" __global__ void pixel_windows(const __grid_constant__ Pixels p) {
    const u32 granules = u32(p.granules), kw = u32(p.kw), channels = u32(p.channels), out_w = u32(p.out_w);
    const u32 out_h = u32(p.out_h), elements = u32(p.kh) * kw * channels;
    const u64 total = u64(p.images) * out_h * out_w * granules;
    for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += u64(gridDim.x) * blockDim.x) {
        const u32 row = u32(i) / granules, first = u32(i) % granules * 16;
        const u32 ox = row % out_w, line = row / out_w;
        const u32 oy = line % out_h, image = line / out_h;
        u32 tap = first / channels, channel = first % channels;
        u32 word[4] = {0, 0, 0, 0};
#pragma unroll
        for (int j = 0; j < 16; j++) {
            const long long y = oy - p.padding + tap / kw;
            const long long x = ox - p.padding + tap % kw;
            if (first + j < elements && y >= 0 && y < p.height && x >= 0 && x < p.width)
                word[j / 4] |= u32(p.x[((image * p.height + y) * p.width + x) * channels + channel]) << (j % 4 * 8);
            if (++channel == channels) {
                channel = 0;
                tap++;
            }
        }
        p.out[i] = make_uint4(word[0], word[1], word[2], word[3]);
        if (first == 0) p.cls[row] = int(p.class_y[oy] * p.classes_x + p.class_x[ox]);
    }
}

__device__ __forceinline__ u32 pooled(u32 a, u32 b, u32 c, u32 d, u32 falling) {
    return ((a | b | c | d) & ~falling) | (a & b & c & d & falling);
}

// 2x2 maxima of thresholds: x (images, height, width, granules) to (images, height / 2, width / 2, granules); a unit's
// bit is the OR of four, or the AND where it is `falling` (kernels.maxpool2x2)
extern "C" __global__ void maxpool(const uint4* x, const uint4* falling, uint4* out, long long images, long long height,
                                   long long width, long long granules) {
    const long long out_h = height / 2, out_w = width / 2, total = images * out_h * out_w * granules;
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        const long long at = i / granules, granule = i % granules;
        const long long line = at / out_w;  // image * out_h + y
        const long long top = (line / out_h * height + line % out_h * 2) * width + at % out_w * 2;
        const uint4 a = x[top * granules + granule], b = x[(top + 1) * granules + granule];
        const uint4 c = x[(top + width) * granules + granule], d = x[(top + width + 1) * granules + granule];
        const uint4 f = falling[granule];
        out[i] = make_uint4(pooled(a.x, b.x, c.x, d.x, f.x), pooled(a.y, b.y, c.y, d.y, f.y),
                            pooled(a.z, b.z, c.z, d.z, f.z), pooled(a.w, b.w, c.w, d.w, f.w));
    }
}

// The first largest of ((dot + bias) - mean) * factor + beta in each row of dot (rows, n), each step rounded to double
// as the host rounds it; table is bias, mean, factor, beta, (4, n)
extern "C" __global__ void argmax_of(const int* dot, const double* table, long long* out, long long rows, long long n) {
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x; row < rows; row += step) {
        double best = 0;
        long long found = 0;
        for (long long i = 0; i < n; i++) {
            const double moved = __dadd_rn(__dadd_rn(double(dot[row * n + i]), table[i]), -table[n + i]);
            const double y = __dadd_rn(__dmul_rn(moved, table[2 * n + i]), table[3 * n + i]);
            if (i == 0 || y > best) {
                best = y;
                found = i;
            }
        }
        out[row] = found;
    }
}
