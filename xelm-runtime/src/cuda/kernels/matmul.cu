// Products of activations with the lanes' weights: after(x * w^T + bias), for one token or many.
//
// A warp makes ROWS x TOKENS numbers. Its lanes take the columns in turns and each sums up its own, in order;
// the lanes' sums are folded at the end. So a number has the same bits whether a kernel for one token or one for
// many made it, and however many tokens are computed together: decoding after a prefill rests on this.
#include "formats.cuh"
#include "math.cuh"

// What is multiplied: [lanes, n, n_cols] as they are, or in 8 bits with scales [lanes, n, n_cols / 32].
struct Activations {
    const float* x;
    const i8* q;
    const Scale* scales;
};

// How a product ends: after(... + bias), added to what is there where `add`.
struct End {
    u32 after, add;
};

// out [lanes, n, n_out]; a lane whose weights have fewer rows than n_out leaves the end of its part. Grid:
// (n_out / (WARPS * ROWS), tokens / TOKENS, lanes); a lane whose weights have another type is for another
// kernel.
#define MATMUL_ARGS                                                                                          \
    float *out, const float *x, const i8 *q, const Scale *scales, const Site *site, const Lane *lanes,       \
        u32 n_cols, u32 n, u32 n_out, u32 after, u32 add
#define MATMUL out, {x, q, scales}, site, lanes, n_cols, n, n_out, {after, add}

// Folds what the lanes of a warp have summed; each lane writes one number of the ROWS x TOKENS.
template <int ROWS, int TOKENS>
__device__ inline void finish(const float (&sums)[ROWS][TOKENS], const Site& w, u32 row, u32 token, float* out,
                              u32 n, u32 n_out, End end) {
    u32 lane = threadIdx.x % WARP;
    float v = 0.0f;
    UNROLL
    for (u32 i = 0; i < ROWS * TOKENS; i++) {
        float sum = warp_sum(sums[i / TOKENS][i % TOKENS]);
        v = lane == i ? sum : v;
    }
    row += lane / TOKENS;
    token += lane % TOKENS;
    if (lane >= ROWS * TOKENS || row >= w.n_rows || token >= n) return;
    if (w.bias) v += w.bias[row];
    v = activate(v, end.after);
    float* to = out + (u64)blockIdx.z * n * n_out + (u64)token * w.n_rows + row;
    *to = end.add ? *to + v : v;
}

// sum plus the products of 32 weights with a token's activations.
template <class F>
__device__ inline float add_products(float sum, const Unit& w, const i8* q, const Scale* scales) {
    int dots[2] = {};
    UNROLL
    for (int h = 0; h < 2; h++) {
        uint4 x = load16(q + w.run[h] * RUN);
        dots[h] = dot4(w.q[h][0], (int)x.x, dots[h]);
        dots[h] = dot4(w.q[h][1], (int)x.y, dots[h]);
        dots[h] = dot4(w.q[h][2], (int)x.z, dots[h]);
        dots[h] = dot4(w.q[h][3], (int)x.w, dots[h]);
    }
    if constexpr (F::IS_GROUP) {
        Scale s = scales[w.run[0] / 2];
        int all = s.sums[0] + s.sums[1];
        sum += (float)(dots[0] + dots[1] - F::OFFSET * all) * (w.d * s.scale);
        if (F::HAS_MIN) sum += w.m[0] * (s.scale * (float)all);
    } else {
        UNROLL
        for (int h = 0; h < 2; h++) {
            Scale s = scales[w.run[h] / 2];
            int half = w.run[h] % 2 ? s.sums[1] : s.sums[0];
            sum += (float)(w.s[h] * (dots[h] - F::OFFSET * half)) * (w.d * s.scale);
            if (F::HAS_MIN) sum += w.m[h] * (s.scale * (float)half);
        }
    }
    return sum;
}

template <class F, int ROWS, int TOKENS>
__device__ void matmul_blocks(float* out, Activations of, const Site* site, const Lane* lanes, u32 n_cols, u32 n,
                              u32 n_out, End end) {
    const Site w = site[lanes[blockIdx.z].expert];
    u32 row = (blockIdx.x * WARPS + threadIdx.x / WARP) * ROWS, token = blockIdx.y * TOKENS;
    if (w.type != F::TYPE || row >= w.n_rows) return;
    float sums[ROWS][TOKENS] = {};
    for (u32 unit = threadIdx.x % WARP; unit < n_cols / GROUP; unit += WARP) {
        Unit units[ROWS];
        UNROLL
        for (int r = 0; r < ROWS; r++) units[r] = F::load(w, n_cols, min(row + r, w.n_rows - 1), unit);
        UNROLL
        for (int t = 0; t < TOKENS; t++) {
            u64 x = (u64)blockIdx.z * n + min(token + t, n - 1);
            UNROLL
            for (int r = 0; r < ROWS; r++)
                sums[r][t] = add_products<F>(sums[r][t], units[r], of.q + x * n_cols,
                                             of.scales + x * (n_cols / GROUP));
        }
    }
    finish<ROWS, TOKENS>(sums, w, row, token, out, n, n_out, end);
}

template <class E, u32 TYPE, int ROWS, int TOKENS>
__device__ void matmul_plain(float* out, Activations of, const Site* site, const Lane* lanes, u32 n_cols, u32 n,
                              u32 n_out, End end) {
    const Site w = site[lanes[blockIdx.z].expert];
    u32 row = (blockIdx.x * WARPS + threadIdx.x / WARP) * ROWS, token = blockIdx.y * TOKENS;
    if (w.type != TYPE || row >= w.n_rows) return;
    float sums[ROWS][TOKENS] = {};
    for (u32 c = threadIdx.x % WARP * 8; c < n_cols; c += WARP * 8) {
        Eight rows[ROWS];
        UNROLL
        for (int r = 0; r < ROWS; r++)
            rows[r] = load_eight((const E*)w.body + (u64)min(row + r, w.n_rows - 1) * n_cols, c, n_cols);
        UNROLL
        for (int t = 0; t < TOKENS; t++) {
            Eight x = load_eight(of.x + ((u64)blockIdx.z * n + min(token + t, n - 1)) * n_cols, c, n_cols);
            UNROLL
            for (int r = 0; r < ROWS; r++)
                UNROLL
                for (int j = 0; j < 8; j++) sums[r][t] += rows[r].at[j] * x.at[j];
        }
    }
    finish<ROWS, TOKENS>(sums, w, row, token, out, n, n_out, end);
}

// _one for decoding, _many for 8 tokens at a time.
KERNEL matmul_f32_one(MATMUL_ARGS) { matmul_plain<float, 0, 1, 1>(MATMUL); }
KERNEL_WIDE matmul_f32_many(MATMUL_ARGS) { matmul_plain<float, 0, 2, 8>(MATMUL); }
KERNEL matmul_f16_one(MATMUL_ARGS) { matmul_plain<f16, 1, 1, 1>(MATMUL); }
KERNEL matmul_f16_many(MATMUL_ARGS) { matmul_plain<f16, 1, 2, 8>(MATMUL); }
KERNEL matmul_bf16_one(MATMUL_ARGS) { matmul_plain<bf16, 30, 1, 1>(MATMUL); }
KERNEL matmul_bf16_many(MATMUL_ARGS) { matmul_plain<bf16, 30, 2, 8>(MATMUL); }
KERNEL matmul_q4_0_one(MATMUL_ARGS) { matmul_blocks<Q4_0, 1, 1>(MATMUL); }
KERNEL matmul_q4_0_many(MATMUL_ARGS) { matmul_blocks<Q4_0, 2, 8>(MATMUL); }
KERNEL matmul_q4_1_one(MATMUL_ARGS) { matmul_blocks<Q4_1, 1, 1>(MATMUL); }
KERNEL matmul_q4_1_many(MATMUL_ARGS) { matmul_blocks<Q4_1, 2, 8>(MATMUL); }
KERNEL matmul_q8_0_one(MATMUL_ARGS) { matmul_blocks<Q8_0, 1, 1>(MATMUL); }
KERNEL matmul_q8_0_many(MATMUL_ARGS) { matmul_blocks<Q8_0, 2, 8>(MATMUL); }
KERNEL matmul_q4_k_one(MATMUL_ARGS) { matmul_blocks<Q4_K, 1, 1>(MATMUL); }
KERNEL matmul_q4_k_many(MATMUL_ARGS) { matmul_blocks<Q4_K, 2, 8>(MATMUL); }
KERNEL matmul_q5_k_one(MATMUL_ARGS) { matmul_blocks<Q5_K, 1, 1>(MATMUL); }
KERNEL matmul_q5_k_many(MATMUL_ARGS) { matmul_blocks<Q5_K, 2, 8>(MATMUL); }
KERNEL matmul_q6_k_one(MATMUL_ARGS) { matmul_blocks<Q6_K, 1, 1>(MATMUL); }
KERNEL matmul_q6_k_many(MATMUL_ARGS) { matmul_blocks<Q6_K, 2, 8>(MATMUL); }
