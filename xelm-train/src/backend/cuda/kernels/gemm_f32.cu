// Matrix products in f32: the exact mode, for comparing with the CPU.
//
// out [M, N] = a [M, K] * b [K, N], each operand stored as it is or transposed.
#include "common.cuh"

#define TILE 64
#define DEPTH 16

// One block of 256 threads makes a tile of 64 x 64, 4 x 4 numbers per thread. `a_trans`: a is stored
// [K, M]; `b_trans`: b is stored [N, K]. Adds `bias` [N] where it is not null, and the old value of
// out where `accumulate`.
template <bool A_TRANS, bool B_TRANS>
__device__ void gemm(float* out, const float* a, const float* b, const float* bias, u32 m, u32 n, u32 k,
                     u32 accumulate) {
    SHARED(float, as, [DEPTH][TILE + 4]);
    SHARED(float, bs, [DEPTH][TILE + 4]);
    u32 m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE;
    u32 row = threadIdx.x / 16 * 4, col = threadIdx.x % 16 * 4;
    float acc[4][4] = {};
    for (u32 k0 = 0; k0 < k; k0 += DEPTH) {
        for (u32 i = threadIdx.x; i < TILE * DEPTH; i += BLOCK) {
            // Neighbouring threads read neighbouring numbers, whichever way the operand lies.
            u32 am = A_TRANS ? i % TILE : i / DEPTH, ak = A_TRANS ? i / TILE : i % DEPTH;
            bool inside = m0 + am < m && k0 + ak < k;
            u64 at = A_TRANS ? (u64)(k0 + ak) * m + m0 + am : (u64)(m0 + am) * k + k0 + ak;
            as[ak][am] = inside ? a[at] : 0.0f;
            u32 bn = B_TRANS ? i / DEPTH : i % TILE, bk = B_TRANS ? i % DEPTH : i / TILE;
            inside = n0 + bn < n && k0 + bk < k;
            at = B_TRANS ? (u64)(n0 + bn) * k + k0 + bk : (u64)(k0 + bk) * n + n0 + bn;
            bs[bk][bn] = inside ? b[at] : 0.0f;
        }
        __syncthreads();
        UNROLL
        for (int d = 0; d < DEPTH; d++)
            UNROLL
            for (int i = 0; i < 4; i++)
                UNROLL
                for (int j = 0; j < 4; j++) acc[i][j] += as[d][row + i] * bs[d][col + j];
        __syncthreads();
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        UNROLL
        for (int j = 0; j < 4; j++) {
            u32 r = m0 + row + i, c = n0 + col + j;
            if (r >= m || c >= n) continue;
            float* to = &out[(u64)r * n + c];
            float v = acc[i][j] + (bias ? bias[c] : 0.0f);
            *to = accumulate ? *to + v : v;
        }
    }
}

// x * weight^T + bias: forward.
KERNEL(BLOCK)
gemm_nt(float* out, const float* a, const float* b, const float* bias, u32 m, u32 n, u32 k,
        u32 accumulate) {
    gemm<false, true>(out, a, b, bias, m, n, k, accumulate);
}

// d_out * weight: the input's gradient.
KERNEL(BLOCK)
gemm_nn(float* out, const float* a, const float* b, const float* bias, u32 m, u32 n, u32 k,
        u32 accumulate) {
    gemm<false, false>(out, a, b, bias, m, n, k, accumulate);
}

// d_out^T * x: the weight's gradient.
KERNEL(BLOCK)
gemm_tn(float* out, const float* a, const float* b, const float* bias, u32 m, u32 n, u32 k,
        u32 accumulate) {
    gemm<true, false>(out, a, b, bias, m, n, k, accumulate);
}
