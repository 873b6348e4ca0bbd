// Matrix products on tensor cores: bf16 in, f32 accumulators. Used where the cuBLASLt library is not
// installed.
//
// out [M, N] = a [M, K] * b [K, N], each operand stored as it is or transposed.
#include "tensor_core.cuh"

#define TILE 128
#define DEPTH 32
#define STAGES 2
// A tile in shared memory: TILE rows of DEPTH numbers or the reverse, rows padded by 8 numbers so that
// the eight rows of an ldmatrix fall into different banks.
#define TILE_LEN (TILE * (DEPTH + 8))

// Brings a tile of `rows` x `cols` numbers, from (r0, c0) of a matrix [n_rows, n_cols], zeros beyond its
// edges.
template <int ROWS, int COLS>
__device__ inline void fetch(bf16* tile, const bf16* x, u32 r0, u32 c0, u32 n_rows, u32 n_cols) {
    const int packs = COLS / 8;
    for (u32 i = threadIdx.x; i < ROWS * packs; i += BLOCK) {
        u32 r = i / packs, c = i % packs * 8;
        bf16* to = tile + r * (COLS + 8) + c;
        const bf16* from = x + (u64)(r0 + r) * n_cols + c0 + c;
        if (n_cols % 8 == 0) {
            // Rows are whole packs, so a pack is inside or outside as one.
            bool inside = r0 + r < n_rows && c0 + c < n_cols;
            copy_async(to, inside ? from : x, inside);
        } else {
            UNROLL
            for (int j = 0; j < 8; j++) {
                bool inside = r0 + r < n_rows && c0 + c + j < n_cols;
                to[j] = inside ? from[j] : __float2bfloat16(0.0f);
            }
        }
    }
}

template <bool A_TRANS, bool B_TRANS>
__device__ inline void fetch_tiles(bf16* a_tile, bf16* b_tile, const bf16* a, const bf16* b, u32 m0,
                                   u32 n0, u32 k0, u32 m, u32 n, u32 k) {
    if (A_TRANS)
        fetch<DEPTH, TILE>(a_tile, a, k0, m0, k, m);
    else
        fetch<TILE, DEPTH>(a_tile, a, m0, k0, m, k);
    if (B_TRANS)
        fetch<TILE, DEPTH>(b_tile, b, n0, k0, n, k);
    else
        fetch<DEPTH, TILE>(b_tile, b, k0, n0, k, n);
    copy_commit();
}

// One block of 8 warps makes a tile of 128 x 128, each warp 64 x 32 of it; the next tiles of a and b
// are on their way while the present ones are multiplied. `Out` is float or bf16.
template <bool A_TRANS, bool B_TRANS, class Out>
__device__ void gemm(Out* out, const bf16* a, const bf16* b, const bf16* bias, u32 m, u32 n, u32 k,
                     u32 accumulate) {
    SHARED(bf16, tiles, [STAGES][2][TILE_LEN]);
    u32 m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE;
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    u32 row = warp / 4 * 64, col = warp % 4 * 32;
    float acc[4][4][4] = {};
    const int a_stride = A_TRANS ? TILE + 8 : DEPTH + 8, b_stride = B_TRANS ? DEPTH + 8 : TILE + 8;

    u32 n_steps = (k + DEPTH - 1) / DEPTH;
    fetch_tiles<A_TRANS, B_TRANS>(tiles[0][0], tiles[0][1], a, b, m0, n0, 0, m, n, k);
    for (u32 step = 0; step < n_steps; step++) {
        if (step + 1 < n_steps) {
            bf16(*next)[TILE_LEN] = tiles[(step + 1) % STAGES];
            fetch_tiles<A_TRANS, B_TRANS>(next[0], next[1], a, b, m0, n0, (step + 1) * DEPTH, m, n, k);
            copy_wait<1>();
        } else {
            copy_wait<0>();
        }
        __syncthreads();
        const bf16 *a_tile = tiles[step % STAGES][0], *b_tile = tiles[step % STAGES][1];
        UNROLL
        for (int d = 0; d < DEPTH; d += 16) {
            u32 af[4][4], bf[2][4];
            UNROLL
            for (int i = 0; i < 4; i++) {
                u32 r = row + i * 16;
                if (A_TRANS)
                    load_a_trans(af[i], a_tile + d * a_stride + r, a_stride);
                else
                    load_a(af[i], a_tile + r * a_stride + d, a_stride);
            }
            UNROLL
            for (int j = 0; j < 2; j++) {
                u32 c = col + j * 16;
                if (B_TRANS)
                    load_b(bf[j], b_tile + c * b_stride + d, b_stride);
                else
                    load_b_trans(bf[j], b_tile + d * b_stride + c, b_stride);
            }
            UNROLL
            for (int i = 0; i < 4; i++)
                UNROLL
                for (int j = 0; j < 4; j++) mma16816(acc[i][j], af[i], bf[j / 2] + j % 2 * 2);
        }
        // Everyone is done with these tiles before the next copies overwrite them.
        __syncthreads();
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        UNROLL
        for (int j = 0; j < 4; j++) {
            UNROLL
            for (int e = 0; e < 4; e++) {
                u32 r = m0 + row + i * 16 + lane / 4 + e / 2 * 8;
                u32 c = n0 + col + j * 8 + lane % 4 * 2 + e % 2;
                if (r >= m || c >= n) continue;
                Out* to = &out[(u64)r * n + c];
                float v = acc[i][j][e] + (bias ? to_float(bias[c]) : 0.0f);
                store(to, accumulate ? to_float(*to) + v : v);
            }
        }
    }
}

// x * weight^T + bias: forward.
KERNEL(BLOCK)
gemm_nt(bf16* out, const bf16* a, const bf16* b, const bf16* bias, u32 m, u32 n, u32 k,
        u32 accumulate) {
    gemm<false, true>(out, a, b, bias, m, n, k, accumulate);
}

// The same with a result in f32: logits.
KERNEL(BLOCK)
gemm_nt_f32(float* out, const bf16* a, const bf16* b, const bf16* bias, u32 m, u32 n, u32 k,
            u32 accumulate) {
    gemm<false, true>(out, a, b, bias, m, n, k, accumulate);
}

// d_out * weight: the input's gradient.
KERNEL(BLOCK)
gemm_nn(bf16* out, const bf16* a, const bf16* b, const bf16* bias, u32 m, u32 n, u32 k,
        u32 accumulate) {
    gemm<false, false>(out, a, b, bias, m, n, k, accumulate);
}

// d_out^T * x in f32: the weight's gradient.
KERNEL(BLOCK)
gemm_tn(float* out, const bf16* a, const bf16* b, const bf16* bias, u32 m, u32 n, u32 k,
        u32 accumulate) {
    gemm<true, false>(out, a, b, bias, m, n, k, accumulate);
}
