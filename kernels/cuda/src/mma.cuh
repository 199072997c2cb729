// A product on tensor cores through mma.sync with fragments of 32 bytes of K: 256 bits (bmma.cu) or 32 numbers (bytes.cu).
// MULTIPLY is the instruction, SCALE the factor of a count (common.cuh).
//
// A block makes TILE_M x TILE_N outputs, a warp WARP_M x WARP_N of them, from TILE_K bytes of K a step, through
// STAGES shared buffers filled by cp.async. A row's 16-byte granules are permuted by the row, so that the eight
// rows of an ldmatrix matrix lie in different banks.
//
// Fragments, in bytes of K (PTX ISA, "Matrix Fragments for mma.m16n8k256" and "... mma.m16n8k32"), g = lane / 4,
// t = lane % 4: register i of a holds row g + 8 (i & 1), bytes 16 (i >> 1) + 4 t + 0..3; register i of b holds column
// g, bytes 16 i + 4 t + 0..3; register i of c is row g + 8 (i >> 1), column 2 t + (i & 1). A matrix of ldmatrix
// (.m8n8.x4.b16) is eight rows of 16 bytes of which lane l gets bytes 4 (l % 4) + 0..3 of row l / 4.

constexpr int WARPS_N = TILE_N / WARP_N;
constexpr int THREADS = TILE_M / WARP_M * WARPS_N * 32;
constexpr int GRANULES = TILE_K / 16;
constexpr int STAGE_BYTES = (TILE_M + TILE_N) * TILE_K;
constexpr int MS = WARP_M / 16;
constexpr int NS = WARP_N / 8;

// where granule `granule` of row `row` lies in a tile of TILE_K-byte rows
__device__ __forceinline__ u32 swizzled(int row, int granule) {
    return row * TILE_K + ((granule ^ (row * TILE_K / 128 & (GRANULES - 1))) << 4);
}

__device__ __forceinline__ void load_stage(const Job& job, u32 stage, long long m0, long long n0, long long byte) {
#pragma unroll
    for (int i = threadIdx.x; i < (TILE_M + TILE_N) * GRANULES; i += THREADS) {
        const int row = i / GRANULES;
        const int granule = i % GRANULES;
        const bool is_a = row < TILE_M;
        const long long at = is_a ? m0 + row : n0 + row - TILE_M;
        const long long in_row = byte + granule * 16;
        const bool valid = at < (is_a ? job.m : job.n) && in_row < job.pitch;
        const unsigned char* source = is_a ? job.a : job.b;
        copy_async(stage + swizzled(row, granule), valid ? source + at * job.pitch + in_row : source, valid);
    }
}

#ifdef __CUDACC__
__device__ __forceinline__ void load_matrices(u32 (&to)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}
#endif

template <bool FUSED>
__device__ __forceinline__ void product(const Job& job) {
    extern __shared__ __align__(128) unsigned char shared[];
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int warp_m = warp / WARPS_N * WARP_M;
    const int warp_n = warp % WARPS_N * WARP_N;
    const u32 tiles_m = u32((job.m + TILE_M - 1) / TILE_M);
    const u32 tiles_n = u32((job.n + TILE_N - 1) / TILE_N);
    u32 tm, tn;
    tile_at(blockIdx.x, tiles_m, tiles_n, GROUP, tm, tn);
    const long long m0 = (long long)tm * TILE_M;
    const long long n0 = (long long)tn * TILE_N;
    const int steps = int((job.pitch + TILE_K - 1) / TILE_K);
    const u32 base = shared_address(shared);

    int count[MS][NS][4];
#pragma unroll
    for (int i = 0; i < MS; i++)
#pragma unroll
        for (int j = 0; j < NS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) count[i][j][e] = 0;

#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) load_stage(job, base + s * STAGE_BYTES, m0, n0, (long long)s * TILE_K);
        copy_commit();
    }
    for (int step = 0; step < steps; step++) {
        copy_wait<STAGES - 2>();
        __syncthreads();  // the stage has arrived, and all threads have read the previous one
        const int next = step + STAGES - 1;
        if (next < steps) load_stage(job, base + next % STAGES * STAGE_BYTES, m0, n0, (long long)next * TILE_K);
        copy_commit();
        const u32 tile_a = base + step % STAGES * STAGE_BYTES;
        const u32 tile_b = tile_a + TILE_M * TILE_K;
#pragma unroll
        for (int k = 0; k < GRANULES; k += 2) {
            u32 a[MS][4], b[NS / 2][4];
#pragma unroll
            for (int i = 0; i < MS; i++)
                load_matrices(a[i], tile_a + swizzled(warp_m + i * 16 + lane % 16, k + lane / 16));
#pragma unroll
            for (int j = 0; j < NS / 2; j++)
                load_matrices(b[j], tile_b + swizzled(warp_n + j * 16 + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < MS; i++)
#pragma unroll
                for (int j = 0; j < NS; j++) MULTIPLY(count[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
    }
#pragma unroll
    for (int i = 0; i < MS; i++) {
        const long long at = m0 + warp_m + i * 16 + lane / 4;
        const auto mine = [&](int j, int half, int e) { return u32(count[i][j][half * 2 + e]); };
        if (job.cls)
            finish_rows<SCALE, FUSED, false, NS>(job, at, n0 + warp_n, mine);
        else
            finish_rows<SCALE, FUSED, true, NS>(job, at, n0 + warp_n, mine);
    }
}
