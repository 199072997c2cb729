// Hopper's tensor cores: wgmma m64n256k256 .b1 .and.popc (sm_90a), fed by the bulk tensor copy engine.
//
// Each SM has one persistent block, which loops over tiles of TILE_M x 256 outputs. Warpgroup 0 copies: one thread
// requests 128-byte-wide boxes of a and b, STAGES ahead. Each other warpgroup multiplies 64 rows of a by all 256 rows of
// b. `full[s]` completes when both boxes of stage s have come, `empty[s]` when every consuming warp is done with it;
// the i-th use of a stage has phase i & 1.
//
// Shared memory (PTX ISA, wgmma "Shared Memory Matrix Layout", K-major, 128-byte swizzle): rows of 128 bytes,
// eight to an atom of 1024 bytes, atoms aligned to it; the 16-byte granule g of row r lies at r * 128 + ((g ^
// r % 8) << 4), which is what the tensor map's 128-byte swizzle writes. A step of 256 bits is 32 bytes: the
// descriptor's start address moves by 32, the swizzle is a function of the address.
// Accumulators (PTX ISA, "Register Fragments", D): register i of a thread is row 16 (warp % 4) + lane / 4 + 8
// (i / 2 % 2), column 8 (i / 4) + 2 (lane % 4) + i % 2.

constexpr int STEP = 128;  // bytes of K a stage
constexpr int TILE_N = 256;
constexpr int TILE_M = 64 * CONSUMERS;
constexpr int A_BYTES = TILE_M * STEP;
constexpr int STAGE_BYTES = A_BYTES + TILE_N * STEP;
constexpr int THREADS = 128 * (CONSUMERS + 1);

struct __align__(64) TensorMap {
    u64 opaque[16];
};

#ifdef __CUDACC__
__device__ __forceinline__ void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 phase) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(barrier), "r"(phase) : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// A box at byte `byte` of rows from `row` on; outside the tensor zeros arrive, which the count of bytes includes.
__device__ __forceinline__ void copy_box(u32 target, const TensorMap& map, u32 barrier, int byte, int row) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
        ::"r"(target), "l"(&map), "r"(byte), "r"(row), "r"(barrier) : "memory");
}
// Make the barriers visible to the copy engine.
__device__ __forceinline__ void barrier_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void multiply_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void multiply_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT>
__device__ __forceinline__ void multiply_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}
template <int COUNT>
__device__ __forceinline__ void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
__device__ __forceinline__ void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
// Keeps the compiler from moving reads of the accumulators before this point.
__device__ __forceinline__ void settle(u32 (&c)[128]) {
#pragma unroll
    for (int i = 0; i < 128; i++) asm volatile("" : "+r"(c[i])::"memory");
}
#endif

// PTX ISA, wgmma "Matrix Descriptor Format": start address, (unused) leading offset, offset of the next eight
// rows, all in units of 16 bytes; swizzle mode 1, 128 bytes, in bits 62-63.
__device__ __forceinline__ u64 descriptor(u32 address) {
    return u64((address & 0x3FFFF) >> 4) | u64(1) << 16 | u64(1024 >> 4) << 32 | u64(1) << 62;
}

template <bool FUSED>
__device__ __forceinline__ void product(const Job& job, const TensorMap& map_a, const TensorMap& map_b) {
    extern __shared__ unsigned char shared[];
    const u32 base = (shared_address(shared) + 1023) & ~1023u;
    const u32 full = base + STAGES * STAGE_BYTES;
    const u32 empty = full + STAGES * 8;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            barrier_init(full + s * 8, 1);
            barrier_init(empty + s * 8, CONSUMERS * 4);
        }
        barrier_fence();
    }
    __syncthreads();

    const u32 tiles_m = u32((job.m + TILE_M - 1) / TILE_M);
    const u32 tiles_n = u32((job.n + TILE_N - 1) / TILE_N);
    const int steps = int((job.pitch + STEP - 1) / STEP);
    int stage = 0;
    u32 phase = 0;
    const int group = threadIdx.x / 128;
    if (group == 0) {
        fewer_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) {
            for (u32 tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
                u32 tm, tn;
                tile_at(tile, tiles_m, tiles_n, GROUP, tm, tn);
                for (int step = 0; step < steps; step++) {
                    barrier_wait(empty + stage * 8, phase ^ 1);  // the first round does not wait
                    const u32 to = base + stage * STAGE_BYTES;
                    barrier_expect(full + stage * 8, STAGE_BYTES);
                    copy_box(to, map_a, full + stage * 8, step * STEP, int(tm) * TILE_M);
                    copy_box(to + A_BYTES, map_b, full + stage * 8, step * STEP, int(tn) * TILE_N);
                    if (++stage == STAGES) {
                        stage = 0;
                        phase ^= 1;
                    }
                }
            }
        }
    } else {
        more_registers<CONSUMER_REGISTERS>();
        const bool speaks = threadIdx.x % 32 == 0;
        u32 count[128];
        for (u32 tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
            u32 tm, tn;
            tile_at(tile, tiles_m, tiles_n, GROUP, tm, tn);
            int before = 0;
            for (int step = 0; step < steps; step++) {
                barrier_wait(full + stage * 8, phase);
                const u32 at = base + stage * STAGE_BYTES;
                const u64 a = descriptor(at + (group - 1) * 64 * STEP);
                const u64 b = descriptor(at + A_BYTES);
                multiply_fence();
#pragma unroll
                for (int k = 0; k < STEP / 32; k++) multiply(count, a + k * 2, b + k * 2, step > 0 || k > 0);
                multiply_commit();
                multiply_wait<1>();  // the step before is done
                if (step > 0 && speaks) barrier_arrive(empty + before * 8);
                before = stage;
                if (++stage == STAGES) {
                    stage = 0;
                    phase ^= 1;
                }
            }
            multiply_wait<0>();
            if (speaks) barrier_arrive(empty + before * 8);
            settle(count);
            const int in_tile = (group - 1) * 64 + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
            const long long row = (long long)tm * TILE_M + in_tile;
            const auto mine = [&](int j, int half, int e) { return count[j * 4 + half * 2 + e]; };
            if (job.cls)
                finish_rows<4, FUSED, false, 32>(job, row, (long long)tn * TILE_N, mine);
            else
                finish_rows<4, FUSED, true, 32>(job, row, (long long)tn * TILE_N, mine);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    wgmma_product(const __grid_constant__ Job job, const __grid_constant__ TensorMap a,
                  const __grid_constant__ TensorMap b) {
    product<false>(job, a, b);
}
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    wgmma_bits(const __grid_constant__ Job job, const __grid_constant__ TensorMap a,
               const __grid_constant__ TensorMap b) {
    product<true>(job, a, b);
}
