// What every kernel uses. The sources are compiled twice: with T = float, and with T = bf16.
//
// They run on two machines: a CUDA device, and for tests a CPU, through a header that stands in for
// the device's builtins (XELM_SHIM). What has no counterpart in C++ is kept in tensor_core.cuh.
#pragma once

#ifndef XELM_SHIM
#include <cuda_bf16.h>
#endif

typedef unsigned int u32;
typedef unsigned long long u64;
typedef __nv_bfloat16 bf16;

#ifdef XELM_F32
typedef float T;
#else
typedef bf16 T;
#endif

// Threads that the host launches per block, unless a kernel says otherwise.
#define BLOCK 256
#define WARP 32
#define WARPS (BLOCK / WARP)
#define ALL_LANES 0xffffffffu
#define MAX_FLOAT 3.402823466e38f
// A target that is not scored.
#define IGNORE 0xffffffffu

#ifndef XELM_SHIM
// Shared memory of a block.
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
// Before loops whose counter indexes an array that is to live in registers.
#define UNROLL _Pragma("unroll")
#endif

#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
__device__ inline void store(float* to, float x) { *to = x; }
__device__ inline void store(bf16* to, float x) { *to = __float2bfloat16(x); }

// 16 bytes of numbers: the widest access to memory.
struct __align__(16) Pack {
    static const int N = 16 / sizeof(T);
    T at[N];
};

// Numbers c .. c + Pack::N of a row of n, zeros beyond its end. Rows of whole packs are aligned.
__device__ inline Pack load_pack(const T* row, u32 c, u32 n) {
    if (n % Pack::N == 0) return *(const Pack*)(row + c);
    Pack pack;
    for (u32 j = 0; j < Pack::N; j++) store(&pack.at[j], c + j < n ? to_float(row[c + j]) : 0.0f);
    return pack;
}

__device__ inline void store_pack(T* row, u32 c, u32 n, const Pack& pack) {
    if (n % Pack::N == 0)
        *(Pack*)(row + c) = pack;
    else
        for (u32 j = 0; j < Pack::N && c + j < n; j++) row[c + j] = pack.at[j];
}

// Index of this thread among all threads of the grid, and their number: 64 bits, as tensors may be
// larger than 2^32.
__device__ inline u64 global_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline u64 global_size() { return (u64)gridDim.x * blockDim.x; }

__device__ inline float warp_sum(float v) {
    for (int o = WARP / 2; o > 0; o /= 2) v += __shfl_xor_sync(ALL_LANES, v, o);
    return v;
}

__device__ inline float warp_max(float v) {
    for (int o = WARP / 2; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, o));
    return v;
}

// The sum over a block of BLOCK threads, known to all of them; one fixed order.
template <class F>
__device__ inline F block_sum(F v, F* shared) {
    shared[threadIdx.x] = v;
    __syncthreads();
    for (u32 half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    v = shared[0];
    __syncthreads();
    return v;
}

__device__ inline float block_max(float v, float* shared) {
    shared[threadIdx.x] = v;
    __syncthreads();
    for (u32 half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half)
            shared[threadIdx.x] = fmaxf(shared[threadIdx.x], shared[threadIdx.x + half]);
        __syncthreads();
    }
    v = shared[0];
    __syncthreads();
    return v;
}

// Dropout by counter: what number i is multiplied with, 0 or `keep` = 1 / (1 - p). The finaliser of
// SplitMix64, bit for bit that of the CPU.
struct Dropout {
    float p, keep;
    u64 key;
};

__device__ inline float dropout_factor(Dropout d, u64 i) {
    u64 z = d.key + i * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    float uniform = (float)((z ^ (z >> 31)) >> 40) * (1.0f / 16777216.0f);
    return uniform < d.p ? 0.0f : d.keep;
}

// Dropout at a place. A micro-batch's key lies in memory, so that the launches of all of them are the same.
__device__ inline Dropout dropout_at(float p, float keep, const u64* key, u64 place) {
    return {p, keep, p > 0.0f ? *key ^ place : 0};
}

// What is left of number i. Rounded before it is added to anything, as on the CPU.
__device__ inline float dropped(float x, Dropout d, u64 i) {
    return d.p > 0.0f ? __fmul_rn(x, dropout_factor(d, i)) : x;
}
