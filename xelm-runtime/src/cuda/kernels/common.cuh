// What every kernel of the runtime uses.
//
// The sources run on two machines: a CUDA device, and for tests a CPU, through a header that stands in for
// the device's builtins (XELM_SHIM). They are compiled without fused multiply-adds, so that a number does not
// depend on how many tokens shared a kernel with it, and both machines round alike.
#pragma once

#ifndef XELM_SHIM
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

typedef signed char i8;
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef __half f16;
typedef __nv_bfloat16 bf16;

// Threads of every block.
#define BLOCK 256
#define WARP 32
#define WARPS (BLOCK / WARP)
#define ALL_LANES 0xffffffffu
// Numbers of a group that shares a scale, of the groups of a block of a K format, and of half a group.
#define GROUP 32
#define SUPER_BLOCK 256
#define RUN 16

#ifndef XELM_SHIM
// Shared memory of a block.
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
// Before loops whose counter indexes an array that is to live in registers.
#define UNROLL _Pragma("unroll")
// c plus the products of four signed bytes.
__device__ inline int dot4(int a, int b, int c) {
    int sum;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
}
#endif

#define KERNEL extern "C" __global__ void __launch_bounds__(BLOCK)
// One block of such a kernel may have a multiprocessor's registers to itself: ptxas spills otherwise.
#define KERNEL_WIDE extern "C" __global__ void __launch_bounds__(BLOCK, 1)

// What an expert has at one place of the model: a matrix and its bias; weight and bias of a norm; the embedding
// and, as its bias, the positions.
struct Site {
    const u8* body;    // blocks without what is in `rest`, or plain numbers; rows one after the other
    const u8* rest;    // the scales that would keep blocks from multiples of 16 bytes
    const float* bias; // [n_rows]
    u32 n_rows;
    u32 type; // ggml's number
};

// An expert in a pass, and the slot of its keys and values.
struct Lane {
    u32 expert, slot;
};

// Activations in 8 bits, x = scale * q: the scale of 32 of them, which others may have too, and the sums of q over
// each half.
struct Scale {
    float scale;
    short sums[2];
};

// Eight neighbouring numbers.
struct Eight {
    float at[8];
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(f16 x) { return __half2float(x); }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
__device__ inline void store(float* to, float x) { *to = x; }
__device__ inline void store(f16* to, float x) { *to = __float2half(x); }

__device__ inline float from_bits(u32 bits) {
    union {
        u32 bits;
        float value;
    } both = {bits};
    return both.value;
}

__device__ inline u32 to_bits(float value) {
    union {
        float value;
        u32 bits;
    } both = {value};
    return both.bits;
}

__device__ inline uint4 load16(const void* at) { return *(const uint4*)at; }

// Eight numbers at an aligned address.
__device__ inline Eight widen(const float* at) {
    uint4 a = load16(at), b = load16(at + 4);
    return {from_bits(a.x), from_bits(a.y), from_bits(a.z), from_bits(a.w),
            from_bits(b.x), from_bits(b.y), from_bits(b.z), from_bits(b.w)};
}

__device__ inline float lower(u32 word, const f16*) { return to_float(__ushort_as_half((unsigned short)word)); }
__device__ inline float upper(u32 word, const f16* of) { return lower(word >> 16, of); }
__device__ inline float lower(u32 word, const bf16*) { return from_bits(word << 16); }
__device__ inline float upper(u32 word, const bf16*) { return from_bits(word & 0xffff0000); }

template <class E>
__device__ inline Eight widen(const E* at) {
    uint4 v = load16(at);
    return {lower(v.x, at), upper(v.x, at), lower(v.y, at), upper(v.y, at),
            lower(v.z, at), upper(v.z, at), lower(v.w, at), upper(v.w, at)};
}

// Numbers c .. c + 8 of a row of n, zeros beyond its end. Rows of whole eights are aligned.
template <class E>
__device__ inline Eight load_eight(const E* row, u32 c, u32 n) {
    if (n % 8 == 0) return widen(row + c);
    Eight eight;
    UNROLL
    for (int j = 0; j < 8; j++) eight.at[j] = c + j < n ? to_float(row[c + j]) : 0.0f;
    return eight;
}

__device__ inline float warp_sum(float v) {
    for (int o = WARP / 2; o > 0; o /= 2) v += __shfl_xor_sync(ALL_LANES, v, o);
    return v;
}

__device__ inline float warp_max(float v) {
    for (int o = WARP / 2; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, o));
    return v;
}

// The sum over a block, known to all of its threads; one fixed order.
__device__ inline float block_sum(float v, float* shared) {
    v = warp_sum(v);
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = v;
    __syncthreads();
    v = 0.0f;
    for (int w = 0; w < WARPS; w++) v += shared[w];
    __syncthreads();
    return v;
}

// Numbers of a block of weights: as many activations have one scale.
__device__ inline u32 block_len(u32 type) { return type >= 12 && type <= 14 ? SUPER_BLOCK : GROUP; }

// Stores 32 numbers, one per lane of a warp, in 8 bits, rounded half away from zero; `amax` becomes 127.
__device__ inline void quantize_group(i8* q, Scale* scale, float v, float amax) {
    u32 lane = threadIdx.x % WARP;
    float inverse = amax == 0.0f ? 0.0f : 127.0f / amax;
    float wide = v * inverse;
    int n = (int)(wide + copysignf(0.5f, wide));
    q[lane] = (i8)n;
    int sum = n;
    for (int o = RUN / 2; o > 0; o /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, o);
    if (lane % RUN == 0) scale->sums[lane / RUN] = (short)sum;
    if (lane == 0) scale->scale = amax / 127.0f;
}

// Stores a row of whole groups in 8 bits, for products with weights of a type; a warp per group.
__device__ inline void quantize_row(i8* q, Scale* scales, const float* x, u32 n, u32 type) {
    u32 lane = threadIdx.x % WARP, len = block_len(type);
    for (u32 g = threadIdx.x / WARP; g < n / GROUP; g += WARPS) {
        const float* block = x + g * GROUP / len * len;
        float amax = 0.0f;
        for (u32 i = lane; i < len; i += WARP) amax = fmaxf(amax, fabsf(block[i]));
        quantize_group(q + g * GROUP, scales + g, x[g * GROUP + lane], warp_max(amax));
    }
}
