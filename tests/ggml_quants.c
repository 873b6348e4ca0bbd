// ggml's own quantisers, for `ggml_quants.sh`: writes rows of numbers and what ggml makes of them.
//
//     ggml_quants SEED N_BATCHES N_ROWS
//
// A batch, little endian: n_cols:u32 n_rows:u32, the importance f32[n_cols], the rows f32[n_rows, n_cols].
// Then n_tables:u32 tables, each type without and, where it matters, with the importance:
// type:u32 weighted:u32, the blocks of all rows, and FNV-1a (u64) of what they are read back as, f32[n_rows, n_cols].

#include "ggml-quants.h"
#include "ggml-impl.h"
#include <stdio.h>
#include <stdlib.h>

// What ggml-quants.c needs of the rest of ggml.
void ggml_abort(const char * file, int line, const char * fmt, ...) {
    fprintf(stderr, "%s:%d: %s\n", file, line, fmt);
    exit(1);
}

static size_t row_bytes(enum ggml_type type, size_t n) {
    switch (type) {
        case GGML_TYPE_F16:
        case GGML_TYPE_BF16: return 2 * n;
        case GGML_TYPE_Q4_0: return n / QK4_0 * sizeof(block_q4_0);
        case GGML_TYPE_Q4_1: return n / QK4_1 * sizeof(block_q4_1);
        case GGML_TYPE_Q8_0: return n / QK8_0 * sizeof(block_q8_0);
        case GGML_TYPE_Q4_K: return n / QK_K * sizeof(block_q4_K);
        case GGML_TYPE_Q5_K: return n / QK_K * sizeof(block_q5_K);
        case GGML_TYPE_Q6_K: return n / QK_K * sizeof(block_q6_K);
        default: abort();
    }
}

size_t ggml_row_size(enum ggml_type type, int64_t n) {
    return row_bytes(type, n);
}

static uint64_t state;

static uint64_t next(void) {
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static float uniform(void) {
    return (next() >> 40) * 0x1p-24f;
}

// About normal.
static float bell(void) {
    return (uniform() + uniform() + uniform() + uniform() - 2) * 1.7f;
}

static float power_of_two(int low, int high) {
    const union { uint32_t bits; float x; } u = { (uint32_t)(127 + low + (int)(next() % (high - low + 1))) << 23 };
    return u.x;
}

// Weights of a model most often; a quarter of the rows are such as go wrong.
static void fill(float * x, size_t n, unsigned kind) {
    const float scale = power_of_two(-9, 0);
    for (size_t i = 0; i < n; ++i) {
        x[i] = bell() * scale;
    }
    const size_t one = next() % n;
    const float value = bell() * power_of_two(-20, 20);
    for (size_t i = 0; i < n; ++i) {
        switch (kind) {
            case 0: x[i] = 0; break;
            case 1: x[i] = i % 2 ? -0.0f : 0.0f; break;
            case 2: x[i] = next() % 2 ? 65504 : -65504; break;
            case 3: x[i] = bell() * 1e-39f; break;                       // denormal
            case 4: x[i] = value; break;                                 // constant
            case 5: x[i] = i == one ? value * 100 : x[i]; break;         // an outlier
            case 6: x[i] = i == one ? value : 0; break;                  // one number
            case 7: x[i] = fabsf(x[i]); break;
            case 8: x[i] = -fabsf(x[i]) - scale; break;
            case 9: x[i] = ((int)(next() % 7) - 3) * scale; break;       // extremes of equal size
            case 10: x[i] = bell() * 1e-15f; break;                      // where ggml's zero begins
            case 11: x[i] = bell() * power_of_two(-30, 10); break;       // many magnitudes
            case 12: x[i] = bell() * (i / 32 % 3 ? 1 : 1e-4f); break;    // quiet groups
            case 13: x[i] = bell() * 1e18f; break;                       // squares overflow
            case 14: x[i] = i % 64 < 32 ? 0 : x[i]; break;               // empty groups
            case 15: x[i] = x[i] + 3 * scale; break;                     // far from 0
            case 16:                                                     // ties, at scale 1
                x[i] = i % 32 ? (int)(next() % 16) - 7.5f : i % 64 ? 127 : -8;
                break;
            default: break;
        }
    }
}

static void weigh(float * w, size_t n, unsigned kind) {
    for (size_t i = 0; i < n; ++i) {
        const float u = uniform();
        switch (kind) {
            case 0: w[i] = 1; break;
            case 1: w[i] = 0; break;
            case 2: w[i] = u < 0.5f ? 0 : u; break;
            case 3: w[i] = u * u * power_of_two(-20, 20); break;
            default: w[i] = u * u + 1e-3f; break;
        }
    }
}

static void put(const void * data, size_t size) {
    if (fwrite(data, 1, size, stdout) != size) {
        exit(1);
    }
}

static uint64_t fnv(const void * data, size_t size) {
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < size; ++i) {
        hash = (hash ^ ((const uint8_t *) data)[i]) * 0x100000001b3;
    }
    return hash;
}

static void quantize(enum ggml_type type, const float * x, void * y, size_t rows, size_t cols, const float * w) {
    switch (type) {
        case GGML_TYPE_F16:
            for (size_t i = 0; i < rows * cols; ++i) ((ggml_fp16_t *) y)[i] = GGML_FP32_TO_FP16(x[i]);
            break;
        case GGML_TYPE_BF16:
            for (size_t i = 0; i < rows * cols; ++i) ((ggml_bf16_t *) y)[i] = GGML_FP32_TO_BF16(x[i]);
            break;
        case GGML_TYPE_Q4_0: quantize_q4_0(x, y, rows, cols, w); break;
        case GGML_TYPE_Q4_1: quantize_q4_1(x, y, rows, cols, w); break;
        case GGML_TYPE_Q8_0: quantize_q8_0(x, y, rows, cols, w); break;
        case GGML_TYPE_Q4_K: quantize_q4_K(x, y, rows, cols, w); break;
        case GGML_TYPE_Q5_K: quantize_q5_K(x, y, rows, cols, w); break;
        case GGML_TYPE_Q6_K: quantize_q6_K(x, y, rows, cols, w); break;
        default: abort();
    }
}

static void dequantize(enum ggml_type type, const void * y, float * x, size_t n) {
    switch (type) {
        case GGML_TYPE_F16:
            for (size_t i = 0; i < n; ++i) x[i] = GGML_FP16_TO_FP32(((const ggml_fp16_t *) y)[i]);
            break;
        case GGML_TYPE_BF16:
            for (size_t i = 0; i < n; ++i) x[i] = GGML_BF16_TO_FP32(((const ggml_bf16_t *) y)[i]);
            break;
        case GGML_TYPE_Q4_0: dequantize_row_q4_0(y, x, n); break;
        case GGML_TYPE_Q4_1: dequantize_row_q4_1(y, x, n); break;
        case GGML_TYPE_Q8_0: dequantize_row_q8_0(y, x, n); break;
        case GGML_TYPE_Q4_K: dequantize_row_q4_K(y, x, n); break;
        case GGML_TYPE_Q5_K: dequantize_row_q5_K(y, x, n); break;
        case GGML_TYPE_Q6_K: dequantize_row_q6_K(y, x, n); break;
        default: abort();
    }
}

static const enum ggml_type TYPES[] = {
    GGML_TYPE_F16,  GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0,
    GGML_TYPE_Q4_1, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K,
};

int main(int argc, char ** argv) {
    if (argc != 4) {
        return 2;
    }
    state = strtoull(argv[1], NULL, 10);
    const unsigned n_batches = strtoul(argv[2], NULL, 10);
    const uint32_t n_rows = strtoul(argv[3], NULL, 10);
    // A few rows are shown in all their kinds, many at random.
    const unsigned n_kinds = n_rows < 64 ? n_rows : 64;
    float * w = malloc(512 * sizeof(float));
    float * x = malloc(n_rows * 512 * sizeof(float));
    float * back = malloc(n_rows * 512 * sizeof(float));
    uint8_t * y = malloc(n_rows * 512 * sizeof(float));
    for (unsigned batch = 0; batch < n_batches; ++batch) {
        const uint32_t n_cols = n_rows < 64 || next() % 2 ? 256 : 512;
        const size_t n = (size_t) n_rows * n_cols;
        weigh(w, n_cols, n_rows < 64 ? 3 : next() % 16);
        for (uint32_t row = 0; row < n_rows; ++row) {
            fill(x + row * n_cols, n_cols, n_rows < 64 ? row : next() % n_kinds);
        }
        put(&n_cols, 4);
        put(&n_rows, 4);
        put(w, n_cols * sizeof(float));
        put(x, n * sizeof(float));
        const uint32_t n_tables = 13;
        put(&n_tables, 4);
        for (unsigned i = 0; i < sizeof(TYPES) / sizeof(*TYPES); ++i) {
            // The first three have no search.
            for (int weighted = 0; weighted <= (i >= 3); ++weighted) {
                const uint32_t type = TYPES[i];
                quantize(type, x, y, n_rows, n_cols, weighted ? w : NULL);
                dequantize(type, y, back, n);
                const uint64_t hash = fnv(back, n * sizeof(float));
                put(&type, 4);
                put(&weighted, 4);
                put(y, row_bytes(type, n_cols) * n_rows);
                put(&hash, 8);
            }
        }
    }
    return fflush(stdout) != 0;
}
