// Shared by all kernels: their argument, asynchronous copies, and how a count becomes a result.
//
// With bits a, b in {0, 1} for ±1, and zero bits where a convolution's tap lies outside the image,
//     dot(m, n) = base[class of m][n] - 2 |a_m| + 4 |a_m and b_n|     (and form: base = start - 2 |b_n|)
//               = base[class of m][n] - 2 |a_m xor b_n|               (xor form: base = start)
// where start is K in a plain product. All sums wrap around 2^32; the result fits int32, so it is exact.
// Rows are bytes in the order of K, `pitch` bytes each, a multiple of 16; bits beyond K are zero.
//
// The fused form asks for dot >= t, or for its opposite: with cut[class][n] = t - base[class][n] that is
// 4 |a_m and b_n| - 2 |a_m| >= cut, both sides in int32 for K < 2^30, and bits of units are inverted where the rule
// is the opposite. Tables are padded to `base_pitch` columns, a multiple of 256, cut with INT_MAX, so that
// columns beyond n need no test.

typedef unsigned int u32;
typedef unsigned long long u64;

struct Job {
    const unsigned char* a;  // m rows
    const unsigned char* b;  // n rows
    long long m, n, pitch;
    const int* base;       // (classes, base_pitch): base, or cut in the fused form
    long long base_pitch;
    const int* cls;        // class of each row of a, or null: all of class 0
    const int* cnt;        // ones of each row of a, or null in the xor form, which does not need them
    int* out;              // (m, n), or null in the fused form
    u32* bits;             // (m, bits_pitch): bit i of word j is unit 32 j + i, or null
    long long bits_pitch;  // words of 32 bits, a multiple of 4
    const u32* turn;       // (bits_pitch): which units' bits are the opposite
};

struct Row {
    const int* base;
    u32 shift;
    bool inside;
};

__device__ __forceinline__ Row row_of(const Job& job, long long row) {
    Row r;
    r.inside = row < job.m;
    r.base = job.base + (r.inside && job.cls ? job.cls[row] * job.base_pitch : 0);
    r.shift = r.inside && job.cnt ? 0u - 2u * u32(job.cnt[row]) : 0u;
    return r;
}

// EACH: factor of `count`: 4 (and form), -2 (xor form), 1 (bytes)
template <int EACH>
__device__ __forceinline__ int dot_of(const Row& row, int base, u32 count) {
    return int(u32(base) + row.shift + u32(EACH) * count);
}
template <int EACH>
__device__ __forceinline__ u32 bit_of(const Row& row, int cut, u32 count) {
    return int(row.shift + u32(EACH) * count) >= cut;
}

// Two neighbouring columns, the first of them even, of a table
__device__ __forceinline__ int2 two_of(const int* table, long long col) {
    return *reinterpret_cast<const int2*>(table + col);
}

// Two neighbouring columns: by one 8-byte store if both exist and the address is aligned.
__device__ __forceinline__ void store_two(const Job& job, long long at, long long col, int first, int second) {
    int* out = job.out + at * job.n + col;
    if (at >= job.m || col >= job.n) return;
    if (col + 1 == job.n) {
        out[0] = first;
    } else if ((reinterpret_cast<u64>(out) & 7) == 0) {
        *reinterpret_cast<int2*>(out) = make_int2(first, second);
    } else {
        out[0] = first;
        out[1] = second;
    }
}

// A tensor-core thread's part of 16 x 8 N outputs in fragments of 8 columns: rows `at` and at + 8, of each
// fragment j columns 8 j + 2 t and + 1, t = lane % 4; count(j, half, e) is how many. Four fragments are a word
// of bits, which the four threads of a row put together.
template <int EACH, bool FUSED, bool PLAIN, int N, typename Count>
__device__ __forceinline__ void finish_rows(const Job& job, long long at, long long n0, Count count) {
    const int t = threadIdx.x % 4;
    const Row rows[2] = {row_of(job, at), row_of(job, at + 8)};
#pragma unroll
    for (int w = 0; w < N / 4; w++) {
        u32 word[2] = {0, 0};
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const int j = w * 4 + q;
            const long long col = n0 + j * 8 + t * 2;
            const int2 first = two_of(rows[0].base, col);
            const int2 second = PLAIN ? first : two_of(rows[1].base, col);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int2 table = half ? second : first;
                if (FUSED) {
                    word[half] |= bit_of<EACH>(rows[half], table.x, count(j, half, 0)) << (q * 8 + t * 2);
                    word[half] |= bit_of<EACH>(rows[half], table.y, count(j, half, 1)) << (q * 8 + t * 2 + 1);
                } else {
                    store_two(job, at + half * 8, col, dot_of<EACH>(rows[half], table.x, count(j, half, 0)),
                              dot_of<EACH>(rows[half], table.y, count(j, half, 1)));
                }
            }
        }
        if (FUSED) {
            const long long index = n0 / 32 + w;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                word[half] |= __shfl_xor_sync(0xffffffffu, word[half], 1);
                word[half] |= __shfl_xor_sync(0xffffffffu, word[half], 2);
                if (t == w % 4 && rows[half].inside && index < job.bits_pitch)
                    job.bits[(at + half * 8) * job.bits_pitch + index] = word[half] ^ job.turn[index];
            }
        }
    }
}

// Tiles in groups of GROUP along m, so that blocks that run together share rows of a and b in L2.
__device__ __forceinline__ void tile_at(u32 tile, u32 tiles_m, u32 tiles_n, u32 group, u32& tm, u32& tn) {
    const u32 per_group = group * tiles_n;
    const u32 first = tile / per_group * group;
    const u32 height = tiles_m - first < group ? tiles_m - first : group;
    const u32 rest = tile % per_group;
    tm = first + rest % height;
    tn = rest / height;
}

__device__ __forceinline__ u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

#ifdef __CUDACC__  // single-instruction functions are in such blocks; tests run the rest on the host
// PTX ISA, cp.async: 16 bytes, zeros in place of what `source_bytes` (0 or 16) leaves out
__device__ __forceinline__ void copy_async(u32 target, const void* source, bool valid) {
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
__device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
#endif
