// Runs the CUDA sources on the host: each thread is a fiber, and blocks run one after the other.
//
// C++ code of the sources is compiled unchanged. PTX instructions are replaced here by functions that follow the PTX
// ISA, operand by operand. Asynchronous ones take effect as late as the waits allow, and shared memory starts with
// garbage, so that a missing wait is detected.
#undef _FORTIFY_SOURCE  // it takes a jump to another stack for an error
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#ifndef __shared__
#define __shared__
#endif

struct Dim { unsigned x, y, z; };
static Dim threadIdx, blockIdx, blockDim, gridDim;
struct uint4 { uint32_t x, y, z, w; };
struct int2 { int x, y; };
struct float4 { float x, y, z, w; };
struct ushort4 { unsigned short x, y, z, w; };
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
// Counts in parallel fields: without a flag for this CPU's own instruction, __builtin_popcount is a call.
static inline int __popc(uint32_t x) {
    x -= x >> 1 & 0x55555555;
    x = (x & 0x33333333) + (x >> 2 & 0x33333333);
    return ((x + (x >> 4)) & 0x0F0F0F0F) * 0x01010101 >> 24;
}
static inline int __float_as_int(float x) { int y; std::memcpy(&y, &x, 4); return y; }
static inline float __int_as_float(int x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline long long __double_as_longlong(double x) { long long y; std::memcpy(&y, &x, 8); return y; }
static inline double __longlong_as_double(long long x) { double y; std::memcpy(&y, &x, 8); return y; }
static inline double __dadd_rn(double x, double y) { return x + y; }  // x86-64 without contraction: each operation is rounded
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline int __float2int_rn(float x) { return (int)std::nearbyint(x); }

constexpr uint32_t WINDOW = 0x440;  // address at which shared memory begins
__attribute__((aligned(16))) unsigned char shared[1 << 18];
static inline size_t __cvta_generic_to_shared(const void* p) { return (const unsigned char*)p - shared + WINDOW; }
extern "C" {
unsigned shared_limit;   // bytes that the launch asked for
unsigned bank_conflicts; // matrices of ldmatrix whose rows share banks
}
static inline unsigned char* at(uint32_t address) {
    if (address < WINDOW || address - WINDOW >= shared_limit) abort();
    return shared + (address - WINDOW);
}

struct Meeting { unsigned count = 0, round = 0; };
struct Copy { uint32_t target; const void* source; int bytes; };
struct Product { uint32_t* c; uint64_t a, b; uint32_t add; };
template <typename T>
struct Groups {
    std::vector<std::vector<T>> closed;
    std::vector<T> open;
    void commit() { closed.push_back(open); open.clear(); }
};
struct Fiber {
    jmp_buf here;
    Dim index;
    bool done = false;
    unsigned warp, lane;
    Groups<Copy> copies;
    Groups<Product> products;
};
struct Warp { Meeting meeting; uint32_t slot[32][6]; };
struct Box { uint32_t target; std::vector<unsigned char> bytes; uint32_t barrier; };
struct Barrier { int expected, pending, bytes; unsigned phase; };

static jmp_buf scheduler;
static Fiber* self;
static std::vector<Warp> warps_here;
static Meeting block_meeting;
static std::map<uint32_t, Barrier> barriers;
static std::vector<Box> boxes;
static long progress;

// makecontext makes a fiber's stack; all later switches are jumps, as swapcontext makes a system call each time.
// Neither side keeps a variable over its jump: `self` is again the fiber that goes on.
static void yield() {
    if (!_setjmp(self->here)) _longjmp(scheduler, 1);
}
static void resume(Fiber& f) {
    self = &f;
    threadIdx = f.index;
    if (!_setjmp(scheduler)) _longjmp(f.here, 1);
}
static void meet(Meeting& meeting, unsigned people) {
    const unsigned round = meeting.round;
    progress++;
    if (++meeting.count == people) {
        meeting.count = 0;
        meeting.round++;
    } else {
        while (meeting.round == round) yield();
    }
}
static void __syncthreads() { meet(block_meeting, blockDim.x * blockDim.y); }
static Warp& my_warp() { return warps_here[self->warp]; }
static void warp_meet() { meet(my_warp().meeting, 32); }

static uint32_t __ballot_sync(uint32_t, bool bit) {
    Warp& w = my_warp();
    w.slot[self->lane][0] = bit;
    warp_meet();
    uint32_t word = 0;
    for (int i = 0; i < 32; i++) word |= w.slot[i][0] << i;
    warp_meet();
    return word;
}
template <typename T>
static T __shfl_xor_sync(uint32_t, T value, int mask) {
    Warp& w = my_warp();
    w.slot[self->lane][0] = value;
    warp_meet();
    const T got = w.slot[self->lane ^ mask][0];
    warp_meet();
    return got;
}

// cp.async: nothing arrives before the wait for it
static void copy_async(uint32_t target, const void* source, bool valid) {
    if (target % 16 || (uintptr_t)source % 16) abort();
    self->copies.open.push_back({target, source, valid ? 16 : 0});
}
static void copy_commit() { self->copies.commit(); }
template <int LEFT>
static void copy_wait() {
    auto& closed = self->copies.closed;
    while (closed.size() > LEFT) {
        for (auto& c : closed.front()) {
            memset(at(c.target), 0, 16);
            memcpy(at(c.target), c.source, c.bytes);
        }
        closed.erase(closed.begin());
    }
}

static uint32_t xor3(uint32_t a, uint32_t b, uint32_t c) { return a ^ b ^ c; }
static uint32_t carry_of(uint32_t a, uint32_t b, uint32_t c) {  // lop3 with table 0xD4, bit (a, b, c)
    uint32_t d = 0;
    for (int i = 0; i < 8; i++)  // each entry of the table, for all bits at once
        if (0xD4 >> i & 1) d |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return d;
}

// ldmatrix .m8n8.x4.b16: lane 8 i + r gives the address of row r of matrix i
static void load_matrices(uint32_t (&to)[4], uint32_t address) {
    Warp& w = my_warp();
    if (address % 16) abort();
    w.slot[self->lane][0] = address;
    warp_meet();
    if (self->lane % 8 == 0) {
        unsigned banks = 0;
        for (int r = 0; r < 8; r++) banks |= 1u << (w.slot[self->lane + r][0] / 16 % 8);
        bank_conflicts += banks != 0xFF;
    }
    for (int i = 0; i < 4; i++) memcpy(&to[i], at(w.slot[i * 8 + self->lane / 4][0]) + self->lane % 4 * 4, 4);
    warp_meet();
}
// mma.m16n8k256 .b1 .and.popc and mma.m16n8k32 .u8.s8: the same fragments; `each` combines four bytes of both
template <typename Each>
static void multiply_fragments(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Each each) {
    Warp& w = my_warp();
    for (int i = 0; i < 4; i++) w.slot[self->lane][i] = a[i];
    w.slot[self->lane][4] = b0;
    w.slot[self->lane][5] = b1;
    warp_meet();
    for (int i = 0; i < 4; i++) {
        const int row = self->lane / 4 + (i < 2 ? 0 : 8), col = self->lane % 4 * 2 + (i & 1);
        for (int half = 0; half < 2; half++)
            for (int t = 0; t < 4; t++) {
                const uint32_t left = w.slot[row % 8 * 4 + t][(row >= 8 ? 1 : 0) + (half ? 2 : 0)];
                c[i] += each(left, w.slot[col * 4 + t][4 + half]);
            }
    }
    warp_meet();
}
static void multiply(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_fragments(c, a, b0, b1, [](uint32_t x, uint32_t y) { return __popc(x & y); });
}
static void multiply_bytes(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_fragments(c, a, b0, b1, [](uint32_t x, uint32_t y) {
        int sum = 0;
        for (int i = 0; i < 32; i += 8) sum += int(uint8_t(x >> i)) * int8_t(y >> i);
        return sum;
    });
}

static void barrier_turn(Barrier& b) {
    if (b.pending == 0 && b.bytes == 0) {
        b.phase ^= 1;
        b.pending = b.expected;
    }
    progress++;
}
static void barrier_init(uint32_t address, uint32_t arrivals) {
    if (address % 8 || at(address + 7) == nullptr) abort();
    barriers[address] = {(int)arrivals, (int)arrivals, 0, 0};
}
static void barrier_fence() {}
static void barrier_wait(uint32_t address, uint32_t phase) {
    while (barriers.at(address).phase == (phase & 1)) yield();
}
static void barrier_arrive(uint32_t address) {
    Barrier& b = barriers.at(address);
    if (--b.pending < 0) abort();
    barrier_turn(b);
}
static void barrier_expect(uint32_t address, uint32_t bytes) {
    barriers.at(address).bytes += bytes;
    barrier_arrive(address);
}
// cp.async.bulk.tensor.2d with the map of tensormap.fields: address, bytes a row, rows, box rows
template <typename Map>
static void copy_box(uint32_t target, const Map& map, uint32_t barrier, int byte, int row) {
    const auto* source = (const unsigned char*)map.opaque[0];
    const long long pitch = map.opaque[1], rows = map.opaque[2], box = map.opaque[3];
    if (target % 1024) abort();
    Box made{target, std::vector<unsigned char>(box * 128), barrier};
    for (long long r = 0; r < box; r++)
        for (int i = 0; i < 128; i++)
            if (row + r < rows && byte + i < pitch) made.bytes[r * 128 + i] = source[(row + r) * pitch + byte + i];
    boxes.push_back(made);
    progress++;
}
static uint32_t swizzle_128(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }
static void deliver() {  // the last request arrives first
    for (; !boxes.empty(); boxes.pop_back()) {
        Box& box = boxes.back();
        for (size_t i = 0; i < box.bytes.size(); i++) *at(swizzle_128(box.target + i)) = box.bytes[i];
        Barrier& b = barriers.at(box.barrier);
        b.bytes -= box.bytes.size();
        barrier_turn(b);
    }
}

// wgmma m64n256k256: operands by descriptors, read at the wait for the group
static void fetch(uint64_t descriptor, int row, uint32_t (&words)[8]) {
    const uint32_t start = (descriptor & 0x3FFF) << 4, next = (descriptor >> 32 & 0x3FFF) << 4;
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) abort();
    for (int i = 0; i < 8; i++)
        memcpy(&words[i], at(swizzle_128(start + row / 8 * next + row % 8 * 128 + i * 4)), 4);
}
static void multiply(uint32_t (&c)[128], uint64_t a, uint64_t b, uint32_t add) {
    self->products.open.push_back({c, a, b, add});
}
static void multiply_fence() {}
static void multiply_commit() { self->products.commit(); }
static void perform(const Product& p) {
    uint32_t left[2][8], right[8];
    const int first = self->warp % 4 * 16 + self->lane / 4;
    for (int half = 0; half < 2; half++) fetch(p.a, first + half * 8, left[half]);
    for (int i = 0; i < 128; i++) {
        fetch(p.b, i / 4 * 8 + self->lane % 4 * 2 + i % 2, right);
        uint32_t sum = 0;
        for (int k = 0; k < 8; k++) sum += __popc(left[i / 2 % 2][k] & right[k]);
        p.c[i] = (p.add ? p.c[i] : 0) + sum;
    }
}
template <int LEFT>
static void multiply_wait() {
    auto& closed = self->products.closed;
    for (int i = 0; i < 3; i++) yield();  // other threads may overwrite operands that are still to be read
    while (closed.size() > LEFT) {
        for (auto& p : closed.front()) perform(p);
        closed.erase(closed.begin());
    }
}
template <int COUNT>
static void fewer_registers() {}
template <int COUNT>
static void more_registers() {}
template <typename T>
static void settle(T&) {}

template <typename Body>
static int run_grid(const unsigned* grid, const unsigned* block, Body body) {
    static Body* current;
    current = &body;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    const unsigned threads = block[0] * block[1];
    constexpr size_t STACK = 1 << 16;
    static std::unique_ptr<unsigned char[]> stacks;  // kept for the next launch, and never filled: only touched pages
    static size_t room = 0;                          // take memory
    if (room < threads * STACK) stacks.reset(new unsigned char[room = threads * STACK]);
    std::vector<Fiber> fibers(threads);
    for (unsigned i = 0; i < threads; i++) {
        Fiber& f = fibers[i];
        f.index = {i % block[0], i / block[0], 0};
        f.warp = i / 32;
        f.lane = i % 32;
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = &stacks[i * STACK];
        context.uc_stack.ss_size = STACK;
        context.uc_link = nullptr;
        makecontext(&context, (void (*)())(+[] {
            for (;;) {  // once for each block
                yield();
                (*current)();
                self->done = true;
            }
        }), 0);
        self = &f;
        if (!_setjmp(scheduler)) setcontext(&context);
    }
    for (unsigned y = 0; y < grid[1]; y++)
        for (unsigned x = 0; x < grid[0]; x++) {
            blockIdx = {x, y, 0};
            memset(shared, 0xA5, sizeof shared);
            warps_here.assign((threads + 31) / 32, Warp());
            block_meeting = Meeting();
            barriers.clear();
            boxes.clear();
            for (auto& f : fibers) {
                f.done = false;
                f.copies = {};
                f.products = {};
            }
            for (unsigned left = threads, idle = 0; left;) {
                const long before = progress;
                for (auto& f : fibers) {
                    if (f.done) continue;
                    resume(f);
                    if (f.done) { left--; progress++; }
                }
                deliver();
                idle = progress == before ? idle + 1 : 0;
                if (idle > 8) return 1;  // all threads wait for each other
            }
            if (!boxes.empty()) return 2;
        }
    return 0;
}
