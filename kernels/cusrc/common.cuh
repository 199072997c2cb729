// What every kernel shares: its one argument, asynchronous copies and the way from a count to a result.
//
// With bits a, b in {0, 1} for ±1, and zero bits where a convolution's tap lies outside the image,
//     dot(m, n) = base[class of m][n] - 2 |a_m| + 4 |a_m and b_n|     (and form: base = start - 2 |b_n|)
//               = base[class of m][n] - 2 |a_m xor b_n|               (xor form: base = start)
// where start is K in a plain product. All sums wrap around 2^32; the result fits int32, so it is exact.
// Rows are bytes in the order of K, `pitch` bytes each, a multiple of 16; bits beyond K are zero.

typedef unsigned int u32;
typedef unsigned long long u64;

struct Job {
    const unsigned char* a;  // m rows
    const unsigned char* b;  // n rows
    long long m, n, pitch;
    const int* base;   // (classes, n)
    const int* cls;    // class of each row of a, or null: all of class 0
    const int* cnt;    // ones of each row of a, or null where they do not count (xor form)
    int* out;          // (m, n), or null in the fused form
    u32* bits;         // (m, bits_pitch): bit i of word j is unit 32 j + i, or null
    long long bits_pitch;  // words of 32 bits, a multiple of 4
    const int* level;  // fused rule: (dot ^ flip) >= level
    const int* flip;   // 0, or -1 where the rule is dot <= ~level
};

struct Row {
    const int* base;
    u32 shift;
    bool inside;
};

__device__ __forceinline__ Row row_of(const Job& job, long long row) {
    Row r;
    r.inside = row < job.m;
    r.base = job.base + (r.inside && job.cls ? job.cls[row] * job.n : 0);
    r.shift = r.inside && job.cnt ? 0u - 2u * u32(job.cnt[row]) : 0u;
    return r;
}

// SCALE: 4 (and form) or -2 (xor form)
template <int SCALE>
__device__ __forceinline__ int dot_at(const Row& row, long long col, u32 count) {
    return int(u32(row.base[col]) + row.shift + u32(SCALE) * count);
}

template <int SCALE>
__device__ __forceinline__ u32 bit_at(const Job& job, const Row& row, long long col, u32 count) {
    return col < job.n && (dot_at<SCALE>(row, col, count) ^ job.flip[col]) >= job.level[col];
}

// Two neighbouring columns by one 8-byte store, where both are there and that is aligned.
template <int SCALE>
__device__ __forceinline__ void store_two(const Job& job, const Row& row, long long at, long long col,
                                          u32 left, u32 right) {
    int* out = job.out + at * job.n + col;
    if (!row.inside || col >= job.n) return;
    const int first = dot_at<SCALE>(row, col, left);
    if (col + 1 < job.n) {
        const int second = dot_at<SCALE>(row, col + 1, right);
        if ((reinterpret_cast<u64>(out) & 7) == 0) {
            *reinterpret_cast<int2*>(out) = make_int2(first, second);
        } else {
            out[0] = first;
            out[1] = second;
        }
    } else {
        out[0] = first;
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

#ifdef __CUDACC__  // functions that are one instruction stand so; tests run the rest on the host
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
