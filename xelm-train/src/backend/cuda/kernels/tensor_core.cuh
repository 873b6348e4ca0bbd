// Tensor cores and asynchronous copies: the instructions that C++ does not have. The shim has a twin
// of each function.
//
// Fragments of mma.m16n8k16, for lane = 4 g + t:
//   a[0] (g, 2t..)  a[1] (g + 8, 2t..)  a[2] (g, 2t + 8..)  a[3] (g + 8, 2t + 8..)   rows m, columns k
//   b[0] (2t.., g)  b[1] (2t + 8.., g)                                               rows k, columns n
//   d[0], d[1] (g, 2t..)   d[2], d[3] (g + 8, 2t..)                                  rows m, columns n
// A register holds two neighbours along k (a, b); d's along n are two registers.
#pragma once
#include "common.cuh"

// Two numbers in one register, the first in the lower half.
__device__ inline u32 pack2(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    u32 bits;
    memcpy(&bits, &pair, 4);
    return bits;
}

#ifndef XELM_SHIM

__device__ inline u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// d += a * b.
__device__ inline void mma16816(float d[4], const u32 a[4], const u32 b[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices; lanes 8 i .. 8 i + 7 name the rows of matrix i, 16 bytes each. Lane 4 g + t
// receives columns 2t, 2t + 1 of row g of each.
__device__ inline void ldmatrix(u32 out[4], const bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same of the transposed matrices.
__device__ inline void ldmatrix_trans(u32 out[4], const bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Copies 16 bytes to shared memory, or writes zeros; both addresses are multiples of 16.
__device__ inline void copy_async(bf16* to, const bf16* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(inside ? 16 : 0)
                 : "memory");
}

// Ends a group of copies of this thread.
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` groups of this thread are under way.
template <int PENDING>
__device__ inline void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

#endif

// The operands of one or two products, from tiles in shared memory with `stride` numbers per row. The
// lanes name rows so that the four matrices of an ldmatrix arrive in the order of the fragments.

// a, 16 (m) x 16 (k), from a tile stored [m][k].
__device__ inline void load_a(u32 a[4], const bf16* tile, int stride) {
    int lane = threadIdx.x % WARP;
    ldmatrix(a, tile + (lane % 16) * stride + lane / 16 * 8);
}

// a, 16 (m) x 16 (k), from a tile stored [k][m].
__device__ inline void load_a_trans(u32 a[4], const bf16* tile, int stride) {
    int lane = threadIdx.x % WARP;
    ldmatrix_trans(a, tile + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
}

// b of two products, 16 (k) x 16 (n), from a tile stored [n][k]: b[0..2] for n < 8, b[2..4] for the rest.
__device__ inline void load_b(u32 b[4], const bf16* tile, int stride) {
    int lane = threadIdx.x % WARP;
    ldmatrix(b, tile + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
}

// The same from a tile stored [k][n].
__device__ inline void load_b_trans(u32 b[4], const bf16* tile, int stride) {
    int lane = threadIdx.x % WARP;
    ldmatrix_trans(b, tile + (lane % 16) * stride + lane / 16 * 8);
}
