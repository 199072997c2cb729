// Tensor cores through mma.sync.m16n8k256 .b1 .and.popc (sm_80 to sm_90; the xor form is emulated on sm_90); mma.cuh
// has the rest.

#define MULTIPLY multiply
#define SCALE 4

#ifdef __CUDACC__
__device__ __forceinline__ void multiply(int (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

#include "mma.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 1) bmma_product(const __grid_constant__ Job job) {
    product<false>(job);
}
extern "C" __global__ void __launch_bounds__(THREADS, 1) bmma_bits(const __grid_constant__ Job job) {
    product<true>(job);
}
