// Runs the CUDA kernels on a CPU, from their own sources: one fibre per thread of a block, blocks one
// after the other. What the kernels use of the device's language has its twin here.
//
// A fibre runs until it waits for others: at a barrier, or at an operation of a whole warp, which the
// last lane to arrive performs for all. Fibres take turns in an order that the caller chooses, so a
// result that depends on it shows itself; shared memory begins with every byte 0xff, so does what is
// never written.
#pragma once
#define XELM_SHIM
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(memory, n_bytes)
#endif

#ifndef __x86_64__
#error "the shim switches stacks in x86-64 assembly"
#endif

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define UNROLL
// A block's shared memory; blocks run one at a time, so one static array serves them all.
#define SHARED(type, name, dims)              \
    alignas(16) static type name dims;        \
    shim::poison(&name, sizeof(name))

struct Index {
    unsigned x, y, z;
};

namespace shim {

// Not a power of two: all stacks would lie in the same few sets of the caches, and each turn would miss them.
const size_t STACK = (64 << 10) + 17 * 64;
const unsigned MAX_THREADS = 256;
const int WARP = 32;

// What a lane gives to an operation of its warp, and what it gets.
union Slot {
    uint64_t word;
    float number;
    const void* pointer;
    struct {
        float d[4];
        uint32_t a[4], b[2];
    } mma;
    uint32_t words[4];
};

struct Fibre {
    void* stack_pointer;
    unsigned thread;
    bool done;
};

struct Barrier {
    unsigned arrived = 0, generation = 0;
};

// A cp.async under way.
struct Copy {
    void* to;
    const void* from;
    bool inside;
};

inline std::vector<Fibre> fibres; // in the order of their turns
inline size_t running;            // index into fibres
inline size_t alive;
inline void* scheduler;
inline std::function<void()> kernel;
inline Index block_index, block_size, grid_size;
inline Barrier block_barrier;
inline std::vector<Barrier> warp_barriers;
inline std::vector<Slot> slots; // one per thread
inline std::vector<void*> poisoned;
// Per thread, the groups of copies that it has not waited for; the last one is still open.
inline std::vector<std::deque<std::vector<Copy>>> copies;

// Saves the registers that a call keeps, and goes on with another stack.
extern "C" void shim_switch(void** save, void* to);
asm(".text\n"
    ".globl shim_switch\n"
    ".type shim_switch, @function\n"
    "shim_switch:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp, (%rdi)\n  mov %rsi, %rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n"
    "  ret\n");

// Gives the turn to the next fibre that is not done.
inline void yield() {
    size_t me = running;
    do running = running + 1 == fibres.size() ? 0 : running + 1;
    while (fibres[running].done && running != me);
    if (running != me) shim_switch(&fibres[me].stack_pointer, fibres[running].stack_pointer);
}

inline void fibre_main() {
    kernel();
    fibres[running].done = true;
    void* unused;
    if (--alive == 0) shim_switch(&unused, scheduler);
    yield();
    abort(); // nobody switches to a fibre that is done
}

// Waits until `expected` fibres have arrived; the last of them first calls `action`.
template <class F>
void wait(Barrier& barrier, unsigned expected, F action) {
    unsigned generation = barrier.generation;
    if (++barrier.arrived == expected) {
        action();
        barrier.arrived = 0;
        barrier.generation++;
        return;
    }
    for (long turns = 0; barrier.generation == generation; turns++) {
        if (turns > 1000000) {
            fprintf(stderr, "shim: deadlock: not all threads reach a barrier\n");
            abort();
        }
        yield();
    }
}

inline unsigned thread() { return fibres[running].thread; }

// An operation of the whole warp: every lane gives what it fills its slot with, `action` changes the warp's slots in
// place. The slot is the lane's own until its next operation.
template <class G, class F>
const Slot& together(G give, F action) {
    unsigned me = thread(), first = me / WARP * WARP;
    give(slots[me]);
    wait(warp_barriers[me / WARP], WARP, [&] { action(&slots[first]); });
    return slots[me];
}

template <class V>
V shuffle(V value, unsigned source) {
    static_assert(sizeof(V) <= 8);
    // The sources differ between lanes: each lane's wish travels in the upper words.
    auto give = [&](Slot& slot) {
        memcpy(&slot, &value, sizeof(V));
        slot.words[2] = source;
    };
    auto take = [](Slot* warp) {
        uint64_t old[WARP];
        for (int lane = 0; lane < WARP; lane++) old[lane] = warp[lane].word;
        for (int lane = 0; lane < WARP; lane++) warp[lane].word = old[warp[lane].words[2]];
    };
    memcpy(&value, &together(give, take), sizeof(V));
    return value;
}

inline void poison(void* memory, size_t n_bytes) {
    for (void* p : poisoned)
        if (p == memory) return;
    poisoned.push_back(memory);
    memset(memory, 0xff, n_bytes);
}

// The order of the fibres' turns.
enum Order { FORWARD, REVERSE, SHUFFLED };

inline void order_fibres(unsigned n, Order order) {
    fibres.assign(n, Fibre());
    for (unsigned i = 0; i < n; i++) fibres[i].thread = order == REVERSE ? n - 1 - i : i;
    uint64_t state = 1;
    for (unsigned i = n; order == SHUFFLED && i > 1; i--) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(fibres[i - 1].thread, fibres[(state >> 33) % i].thread);
    }
}

inline void launch(const unsigned grid[3], unsigned n_threads, Order order, std::function<void()> body) {
    // Never destroyed: libraries of kernels share it, and the one that was first may be unloaded first.
    static std::vector<char>& stacks = *new std::vector<char>(STACK * MAX_THREADS);
    if (n_threads % WARP != 0 || n_threads > MAX_THREADS) {
        fprintf(stderr, "shim: a block of %u threads\n", n_threads);
        abort();
    }
    kernel = body;
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {n_threads, 1, 1};
    slots.resize(n_threads);
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                block_index = {x, y, z};
                block_barrier = Barrier();
                warp_barriers.assign(n_threads / WARP, Barrier());
                poisoned.clear();
                copies.assign(n_threads, {{}});
                order_fibres(n_threads, order);
                alive = n_threads;
                // The frames that the last block's fibres never left.
                ASAN_UNPOISON_MEMORY_REGION(stacks.data(), STACK * n_threads);
                for (unsigned i = 0; i < n_threads; i++) {
                    // The stack of a call that has just happened: return address, then six registers.
                    uintptr_t top = (uintptr_t)(stacks.data() + STACK * (i + 1)) & ~(uintptr_t)15;
                    void** stack = (void**)top;
                    *--stack = nullptr;
                    *--stack = (void*)fibre_main;
                    for (int r = 0; r < 6; r++) *--stack = nullptr;
                    fibres[i].stack_pointer = stack;
                }
                running = 0;
                shim_switch(&scheduler, fibres[0].stack_pointer);
            }
    // Its code may be unloaded before the next launch.
    kernel = nullptr;
}

} // namespace shim

#define threadIdx (Index{shim::thread(), 0, 0})
#define blockIdx (shim::block_index)
#define blockDim (shim::block_size)
#define gridDim (shim::grid_size)

inline void __syncthreads() { shim::wait(shim::block_barrier, shim::block_size.x, [] {}); }
inline void __syncwarp() { shim::wait(shim::warp_barriers[shim::thread() / shim::WARP], shim::WARP, [] {}); }
template <class V>
V __shfl_sync(unsigned, V value, unsigned lane) {
    return shim::shuffle(value, lane);
}
template <class V>
V __shfl_xor_sync(unsigned, V value, unsigned mask) {
    return shim::shuffle(value, shim::thread() % shim::WARP ^ mask);
}
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
using std::isfinite;
inline float __fmul_rn(float a, float b) { return a * b; }

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

// c plus the products of four signed bytes.
inline int dot4(int a, int b, int c) {
    for (int shift = 0; shift < 32; shift += 8) c += (int8_t)(a >> shift) * (int8_t)(b >> shift);
    return c;
}

struct __half {
    uint16_t bits;
};
inline float __half2float(__half v) {
    // A subnormal's number of steps of 2^-24, or the exponent moved to its place in a float.
    int exponent = v.bits >> 10 & 31, fraction = v.bits & 1023;
    float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                      : exponent == 0 ? ldexpf((float)fraction, -24)
                                      : ldexpf((float)(fraction + 1024), exponent - 25);
    return v.bits >> 15 ? -magnitude : magnitude;
}
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
// Rounds to nearest, ties to even.
inline __half __float2half(float f) {
    uint16_t sign = std::signbit(f) ? 0x8000 : 0;
    if (f != f) return {(uint16_t)(sign | 0x7e00)};
    float magnitude = fabsf(f);
    if (magnitude >= 65520.0f) return {(uint16_t)(sign | 0x7c00)};
    // The step between neighbours at this magnitude; `rintf` rounds to even.
    int exponent = magnitude < 6.103515625e-5f ? -14 : ilogbf(magnitude);
    int steps = (int)rintf(ldexpf(magnitude, 10 - exponent));
    // 1024 steps more carry into the exponent by themselves.
    return {(uint16_t)(sign | (((exponent + 14) << 10) + steps))};
}

struct __nv_bfloat16 {
    uint16_t bits;
};
struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
inline float __bfloat162float(__nv_bfloat16 v) {
    uint32_t bits = (uint32_t)v.bits << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
// Rounds to nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (f != f) return {0x7fff};
    return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {__float2bfloat16(x), __float2bfloat16(y)};
}

namespace shim {
// Half of a register as a number.
inline float half(uint32_t word, int upper) {
    return __bfloat162float({(uint16_t)(upper ? word >> 16 : word)});
}
} // namespace shim

// The twins of tensor_core.cuh, by the fragment layouts of the PTX manual.

inline void mma16816(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    auto give = [&](shim::Slot& slot) {
        memcpy(slot.mma.d, d, 16);
        memcpy(slot.mma.a, a, 16);
        memcpy(slot.mma.b, b, 8);
    };
    const shim::Slot& got = shim::together(give, [](shim::Slot* warp) {
        float left[16][16], right[16][8];
        for (int lane = 0; lane < 32; lane++) {
            int g = lane / 4, t = lane % 4;
            for (int upper = 0; upper < 2; upper++) {
                for (int i = 0; i < 4; i++)
                    left[g + i % 2 * 8][2 * t + upper + i / 2 * 8] = shim::half(warp[lane].mma.a[i], upper);
                for (int i = 0; i < 2; i++)
                    right[2 * t + upper + i * 8][g] = shim::half(warp[lane].mma.b[i], upper);
            }
        }
        for (int lane = 0; lane < 32; lane++)
            for (int e = 0; e < 4; e++)
                for (int k = 0; k < 16; k++)
                    warp[lane].mma.d[e] += left[lane / 4 + e / 2 * 8][k] * right[k][lane % 4 * 2 + e % 2];
    });
    memcpy(d, got.mma.d, 16);
}

namespace shim {
inline void load_matrices(uint32_t out[4], const void* row, bool transposed) {
    if ((uintptr_t)row % 16 != 0) {
        fprintf(stderr, "shim: ldmatrix of a row that is not aligned\n");
        abort();
    }
    auto give = [&](Slot& slot) { slot.pointer = row; };
    const Slot& got = together(give, [=](Slot* warp) {
        uint16_t m[4][8][8];
        for (int lane = 0; lane < 32; lane++) memcpy(m[lane / 8][lane % 8], warp[lane].pointer, 16);
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++) {
                int g = lane / 4, t = lane % 4 * 2;
                uint16_t low = transposed ? m[i][t][g] : m[i][g][t];
                uint16_t high = transposed ? m[i][t + 1][g] : m[i][g][t + 1];
                warp[lane].words[i] = (uint32_t)high << 16 | low;
            }
    });
    memcpy(out, got.words, 16);
}
} // namespace shim

inline void ldmatrix(uint32_t out[4], const __nv_bfloat16* row) { shim::load_matrices(out, row, false); }
inline void ldmatrix_trans(uint32_t out[4], const __nv_bfloat16* row) {
    shim::load_matrices(out, row, true);
}

// Copies happen only when they are waited for, as late as the device may do them.
inline void copy_async(__nv_bfloat16* to, const __nv_bfloat16* from, bool inside) {
    if ((uintptr_t)to % 16 != 0 || (uintptr_t)from % 16 != 0) {
        fprintf(stderr, "shim: cp.async between addresses that are not aligned\n");
        abort();
    }
    shim::copies[shim::thread()].back().push_back({to, from, inside});
}
inline void copy_commit() { shim::copies[shim::thread()].emplace_back(); }
template <int PENDING>
void copy_wait() {
    auto& groups = shim::copies[shim::thread()];
    while (groups.size() > PENDING + 1) {
        for (const shim::Copy& copy : groups.front()) {
            if (copy.inside)
                memcpy(copy.to, copy.from, 16);
            else
                memset(copy.to, 0, 16);
        }
        groups.pop_front();
    }
}
