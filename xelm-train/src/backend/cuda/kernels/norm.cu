// Layer norm, forward and backward: one warp per row, statistics in f32.
#include "common.cuh"


// The packs of a row that a lane works on: for (ROW_PACKS(c, n)) { numbers c .. c + Pack::N }
#define ROW_PACKS(c, n) u32 c = threadIdx.x % WARP * Pack::N; c < n; c += WARP * Pack::N

// x = before + dropout(branch), where there is a branch; out = (x - mean) * rstd * weight + bias; stats
// [N, 2] keeps mean and rstd. The statistics are those of the rounded x, which the backward pass reads.
KERNEL(BLOCK)
layer_norm(T* out, float* stats, T* x, const T* before, const T* branch, const T* weight, const T* bias,
           float eps, u32 n_rows, u32 n_embd, float p, float keep, const u64* key, u64 place) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= n_rows) return;
    u64 start = (u64)row * n_embd;
    Dropout dropout = dropout_at(p, keep, key, place);
    x += start;
    out += start;
    float sum = 0.0f;
    for (ROW_PACKS(c, n_embd)) {
        Pack in = load_pack(before + start, c, n_embd);
        if (branch) {
            Pack add = load_pack(branch + start, c, n_embd);
            for (u32 j = 0; j < Pack::N; j++)
                store(&in.at[j], to_float(in.at[j]) + dropped(to_float(add.at[j]), dropout, start + c + j));
            // Every lane reads again what it has written itself.
            store_pack(x, c, n_embd, in);
        }
        for (u32 j = 0; j < Pack::N; j++) sum += to_float(in.at[j]);
    }
    float mean = warp_sum(sum) / n_embd;
    // A second pass: the difference of large sums would lose the variance.
    sum = 0.0f;
    for (ROW_PACKS(c, n_embd)) {
        Pack in = load_pack(x, c, n_embd);
        for (u32 j = 0; j < Pack::N && c + j < n_embd; j++) {
            float d = to_float(in.at[j]) - mean;
            sum += d * d;
        }
    }
    float rstd = 1.0f / sqrtf(warp_sum(sum) / n_embd + eps);
    for (ROW_PACKS(c, n_embd)) {
        Pack in = load_pack(x, c, n_embd), w = load_pack(weight, c, n_embd);
        Pack b = load_pack(bias, c, n_embd);
        for (u32 j = 0; j < Pack::N; j++)
            store(&in.at[j], (to_float(in.at[j]) - mean) * rstd * to_float(w.at[j]) + to_float(b.at[j]));
        store_pack(out, c, n_embd, in);
    }
    if (threadIdx.x % WARP == 0) {
        stats[2 * (u64)row] = mean;
        stats[2 * (u64)row + 1] = rstd;
    }
}

// With y = (x - mean) * rstd and g = d_out * weight: d_x += rstd * (g - mean(g) - y * mean(g * y)), and
// d_branch = dropout(d_x) where there is a branch.
KERNEL(BLOCK)
layer_norm_backward(T* d_x, T* d_branch, const T* d_out, const T* x, const float* stats, const T* weight,
                    u32 n_rows, u32 n_embd, float p, float keep, const u64* key, u64 place) {
    u32 row = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= n_rows) return;
    u64 start = (u64)row * n_embd;
    Dropout dropout = dropout_at(p, keep, key, place);
    x += start;
    d_x += start;
    d_out += start;
    float mean = stats[2 * (u64)row], rstd = stats[2 * (u64)row + 1];
    float g_sum = 0.0f, gy_sum = 0.0f;
    for (ROW_PACKS(c, n_embd)) {
        Pack in = load_pack(x, c, n_embd), d = load_pack(d_out, c, n_embd);
        Pack w = load_pack(weight, c, n_embd);
        for (u32 j = 0; j < Pack::N; j++) {
            float g = to_float(d.at[j]) * to_float(w.at[j]);
            g_sum += g;
            gy_sum += g * (to_float(in.at[j]) - mean) * rstd;
        }
    }
    float g_mean = warp_sum(g_sum) / n_embd, gy_mean = warp_sum(gy_sum) / n_embd;
    for (ROW_PACKS(c, n_embd)) {
        Pack in = load_pack(x, c, n_embd), d = load_pack(d_out, c, n_embd);
        Pack w = load_pack(weight, c, n_embd), sum = load_pack(d_x, c, n_embd);
        for (u32 j = 0; j < Pack::N; j++) {
            float y = (to_float(in.at[j]) - mean) * rstd;
            float g = to_float(d.at[j]) * to_float(w.at[j]);
            store(&sum.at[j], to_float(sum.at[j]) + rstd * (g - g_mean - y * gy_mean));
        }
        store_pack(d_x, c, n_embd, sum);
        if (d_branch) {
            for (u32 j = 0; j < Pack::N; j++)
                store(&sum.at[j], dropped(to_float(sum.at[j]), dropout, start + c + j));
            store_pack(d_branch + start, c, n_embd, sum);
        }
    }
}

// The gradients of weight and bias over one run of rows: partial[run] = [d_weight [C], d_bias [C]].
// Grid: (columns / 32, runs); 32 columns and 8 rows at a time.
KERNEL(BLOCK)
layer_norm_columns(float* partial, const T* d_out, const T* x, const float* stats, u32 n_rows,
                   u32 n_embd, u32 rows_per_run) {
    SHARED(float, sums, [2][WARPS][WARP]);
    u32 c = blockIdx.x * WARP + threadIdx.x % WARP, w = threadIdx.x / WARP;
    u32 start = blockIdx.y * rows_per_run;
    u32 end = min(start + rows_per_run, n_rows);
    float d_weight = 0.0f, d_bias = 0.0f;
    if (c < n_embd) {
        for (u32 row = start + w; row < end; row += WARPS) {
            float d = to_float(d_out[(u64)row * n_embd + c]);
            float y = (to_float(x[(u64)row * n_embd + c]) - stats[2 * (u64)row]) * stats[2 * (u64)row + 1];
            d_weight += d * y;
            d_bias += d;
        }
    }
    sums[0][w][threadIdx.x % WARP] = d_weight;
    sums[1][w][threadIdx.x % WARP] = d_bias;
    __syncthreads();
    if (w < 2 && c < n_embd) {
        float sum = 0.0f;
        for (u32 i = 0; i < WARPS; i++) sum += sums[w][i][threadIdx.x % WARP];
        partial[((u64)blockIdx.y * 2 + w) * n_embd + c] = sum;
    }
}
