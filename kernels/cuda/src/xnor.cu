// Xor and popcount on CUDA cores, the paper's kind of kernel (arXiv 1602.02830, section 4).
//
// A block makes TILE_M x TILE_N outputs from TILE_K bytes of K a step; a warp owns ROWS rows, a lane COLS columns
// 32 apart, so that stores are whole lines and a ballot gives 32 units' bits. Popcount runs at a quarter of
// the rate of logic on sm_90, so two words are first added to a running `ones` word (a carry-save adder) and
// only the carry is counted: s = ones^x1^x2 needs the words of a and b only through a1^a2 and b1^b2,
// and the carry, maj(ones, x1, x2), is a function of ones, x1 and s: three LOP3, one POPC, one add for two words.

constexpr int PAD = 16;                       // bytes; lanes' 16-byte reads then spread over all banks
constexpr int ROW_BYTES = TILE_K + PAD;
constexpr int THREADS = TILE_M / ROWS * 32;
constexpr int COLS = TILE_N / 32;
constexpr int GRANULES = TILE_K / 16;
constexpr int STAGE_BYTES = (TILE_M + TILE_N) * ROW_BYTES;

#ifdef __CUDACC__
__device__ __forceinline__ u32 xor3(u32 a, u32 b, u32 c) {
    u32 d;
    asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
// maj(ones, x, s ^ ones ^ x)
__device__ __forceinline__ u32 carry_of(u32 ones, u32 x, u32 s) {
    u32 d;
    asm("lop3.b32 %0, %1, %2, %3, 0xD4;" : "=r"(d) : "r"(ones), "r"(x), "r"(s));
    return d;
}
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int BLOCKS = 1, UNROLL = 1;  // more would spill there
#else
constexpr int BLOCKS = 2, UNROLL = GRANULES;
#endif

__device__ __forceinline__ void load_stage(const Job& job, u32 stage, long long m0, long long n0, long long byte) {
#pragma unroll
    for (int i = threadIdx.x; i < (TILE_M + TILE_N) * GRANULES; i += THREADS) {
        const int row = i / GRANULES;
        const int offset = i % GRANULES * 16;
        const bool is_a = row < TILE_M;
        const long long at = is_a ? m0 + row : n0 + row - TILE_M;
        const bool valid = at < (is_a ? job.m : job.n) && byte + offset < job.pitch;
        const unsigned char* source = is_a ? job.a : job.b;
        copy_async(stage + row * ROW_BYTES + offset, valid ? source + at * job.pitch + byte + offset : source, valid);
    }
}

template <bool FUSED>
__device__ __forceinline__ void product(const Job& job) {
    extern __shared__ __align__(16) unsigned char shared[];
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const u32 tiles_m = u32((job.m + TILE_M - 1) / TILE_M);
    const u32 tiles_n = u32((job.n + TILE_N - 1) / TILE_N);
    u32 tm, tn;
    tile_at(blockIdx.x, tiles_m, tiles_n, GROUP, tm, tn);
    const long long m0 = (long long)tm * TILE_M;
    const long long n0 = (long long)tn * TILE_N;
    const int steps = int((job.pitch + TILE_K - 1) / TILE_K);
    const u32 base = shared_address(shared);

    u32 count[ROWS][COLS], ones[ROWS][COLS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int j = 0; j < COLS; j++) count[r][j] = ones[r][j] = 0;

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
        const unsigned char* stage = shared + step % STAGES * STAGE_BYTES;
        const unsigned char* rows = stage + warp * ROWS * ROW_BYTES;
        const unsigned char* cols = stage + (TILE_M + lane) * ROW_BYTES;
#pragma unroll UNROLL
        for (int g = 0; g < GRANULES; g++) {
            uint4 b[COLS];
#pragma unroll
            for (int j = 0; j < COLS; j++) {
                b[j] = *reinterpret_cast<const uint4*>(cols + j * 32 * ROW_BYTES + g * 16);
                b[j].y ^= b[j].x;
                b[j].w ^= b[j].z;
            }
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                uint4 a = *reinterpret_cast<const uint4*>(rows + r * ROW_BYTES + g * 16);
                a.y ^= a.x;
                a.w ^= a.z;
#pragma unroll
                for (int j = 0; j < COLS; j++) {
                    u32 sum = xor3(ones[r][j], a.y, b[j].y);
                    count[r][j] += __popc(carry_of(ones[r][j], a.x ^ b[j].x, sum));
                    ones[r][j] = xor3(sum, a.w, b[j].w);
                    count[r][j] += __popc(carry_of(sum, a.z ^ b[j].z, ones[r][j]));
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const long long at = m0 + warp * ROWS + r;
        const Row row = row_of(job, at);
#pragma unroll
        for (int j = 0; j < COLS; j++) {
            const long long col = n0 + j * 32 + lane;
            const u32 differ = 2 * count[r][j] + __popc(ones[r][j]);
            const int table = row.base[col];
            if (FUSED) {
                const u32 word = __ballot_sync(0xffffffffu, bit_of<-2>(row, table, differ));
                const long long index = n0 / 32 + j;
                if (lane == 0 && row.inside && index < job.bits_pitch)
                    job.bits[at * job.bits_pitch + index] = word ^ job.turn[index];
            } else if (row.inside && col < job.n) {
                job.out[at * job.n + col] = dot_of<-2>(row, table, differ);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) xnor_product(const __grid_constant__ Job job) {
    product<false>(job);
}
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) xnor_bits(const __grid_constant__ Job job) {
    product<true>(job);
}
