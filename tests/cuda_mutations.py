"""Plants one mistake after another in the CUDA kernels and runs the tests: each must fail.

    cuda_mutations.py SCRATCH TRAIN_KERNELS TRAIN_TESTS RUNTIME_KERNELS RUNTIME_TESTS
"""

import os
import pathlib
import shutil
import subprocess
import sys

# File, what stands there, what is put in its place: flipped signs, mostly in the backward kernels.
TRAIN = [
    ("attention.cu", "prob * (d_prob - delta[h.row])", "prob * (d_prob + delta[h.row])"),
    ("attention.cu", "prob * (d_prob * factor - delta[row])", "prob * (d_prob * factor + delta[row])"),
    ("attention.cu", "acc[i] += weight * to_float(k", "acc[i] -= weight * to_float(k"),
    ("attention.cu", "d_k[j] += weight_k", "d_k[j] -= weight_k"),
    ("attention.cu", "d_v[j] += weight_v", "d_v[j] -= weight_v"),
    ("attention.cu", "sum += to_float(d_out[at + i])", "sum -= to_float(d_out[at + i])"),
    ("attention_mma.cu", "plain * (d_score * factor - delta)", "plain * (d_score * factor + delta)"),
    ("attention_mma.cu", "(prob * scale - lse)", "(prob * scale + lse)"),
    ("attention_mma.cu", "j <= i && i < s.n_ctx, row_lse", "j < i && i < s.n_ctx, row_lse"),
    ("attention_mma.cu", "j <= i && i < s.n_ctx, lses", "j < i && i < s.n_ctx, lses"),
    ("attention_mma.cu", "acc[d][2 * half + e] *= shrink", "acc[d][2 * half + e] /= shrink"),
    ("attention_mma.cu", "        copy_wait<1>();\n", ""),
    ("common.cuh", "*key ^ place", "place"),
    ("elementwise.cu", "+ x * density", "- x * density"),
    ("elementwise.cu", "(1.0f - t * t) * slope", "(1.0f + t * t) * slope"),
    ("elementwise.cu", "return x > 0.0f ? 1.0f : 0.0f", "return x > 0.0f ? -1.0f : 0.0f"),
    ("elementwise.cu", "sum += to_float(x[(u64)row", "sum -= to_float(x[(u64)row"),
    ("elementwise.cu", "out[c] += sum", "out[c] -= sum"),
    ("embed.cu", "sum += scale * to_float(d_out", "sum -= scale * to_float(d_out"),
    ("embed.cu", "blockIdx.x >= *n_tokens", "blockIdx.x + 1 >= *n_tokens"),
    ("gemm_bf16.cu", "accumulate ? to_float(*to) + v : v", "accumulate ? to_float(*to) - v : v"),
    ("gemm_bf16.cu", "            copy_wait<1>();\n", "            copy_wait<2>();\n"),
    ("gemm_f32.cu", "accumulate ? *to + v : v", "accumulate ? *to - v : v"),
    ("head.cu", "v == target ? p - scale : p", "v == target ? p + scale : p"),
    ("head.cu", "max + logf(sum) - at_target", "max - logf(sum) - at_target"),
    ("norm.cu", "rstd * (g - g_mean - y * gy_mean)", "rstd * (g + g_mean - y * gy_mean)"),
    ("norm.cu", "rstd * (g - g_mean - y * gy_mean)", "rstd * (g - g_mean + y * gy_mean)"),
    ("norm.cu", "to_float(in.at[j]) + dropped(", "to_float(in.at[j]) - dropped("),
    ("norm.cu", "load_pack(before + start, c", "load_pack(before, c"),
    ("norm.cu", "dropped(to_float(sum.at[j])", "-dropped(to_float(sum.at[j])"),
    ("norm.cu", "dropout, start + c + j));\n            store_pack(d_branch", "dropout, c + j));\n            store_pack(d_branch"),
    ("norm.cu", "d_weight += d * y", "d_weight -= d * y"),
    ("norm.cu", "d_bias += d", "d_bias -= d"),
    ("optimizer.cu", "p[i] * keep - step", "p[i] * keep + step"),
    ("optimizer.cu", "max_norm / length", "length / max_norm"),
]

# Of the runtime's kernels: signs, numbers of bits and bytes, bounds, barriers. Not the barriers before a sum's readers
# that a shuffle or the same thread's own writes make up for here: no test can miss them.
RUNTIME = [
    ("attention.cu", "*past + blockIdx.x;", "blockIdx.x;"),
    ("attention.cu", "start > position) return", "start >= position) return"),
    ("attention.cu", "position + 1 - start", "position - start"),
    ("attention.cu", "    __syncwarp();\n\n    // Each lane scores", "\n    // Each lane scores"),
    ("attention.cu", "sum * scale :", "sum :"),
    ("attention.cu", "lanes[blockIdx.z].slot", "lanes[0].slot"),
    ("attention.cu", "sum += share * part[head_dim + 1]", "sum += part[head_dim + 1]"),
    ("attention.cu", "    __syncthreads();\n    if (!q)", "    if (!q)"),
    ("common.cuh", "copysignf(0.5f, wide)", "0.5f"),
    ("common.cuh", "sum += __shfl_xor_sync(ALL_LANES, sum, o)", "sum -= __shfl_xor_sync(ALL_LANES, sum, o)"),
    ("common.cuh", "for (int w = 0; w < WARPS; w++)", "for (int w = 1; w < WARPS; w++)"),
    ("common.cuh", "? SUPER_BLOCK : GROUP", "? GROUP : GROUP"),
    ("embed.cu", "(q - F::OFFSET)", "q"),
    ("embed.cu", "v + u.m[h]", "v - u.m[h]"),
    ("embed.cu", "(*past + blockIdx.x)", "(blockIdx.x)"),
    ("formats.cuh", "static const int OFFSET = 8", "static const int OFFSET = 7"),
    ("formats.cuh", "static const int OFFSET = 32", "static const int OFFSET = 31"),
    ("formats.cuh", "-(dmin * (float)m)", "(dmin * (float)m)"),
    ("formats.cuh", "a >> 6 << 4", "a >> 6"),
    ("formats.cuh", "2 * p + 1, 0x01010101", "2 * p, 0x01010101"),
    ("formats.cuh", "2 * j + 4, 0x03030303", "2 * j, 0x03030303"),
    ("formats.cuh", "(i8)block[192 + run]", "block[192 + run]"),
    ("math.cuh", "x * 0.70710678118654752f", "x"),
    ("math.cuh", "0.044715f * x * x", "0.044715f * x"),
    ("math.cuh", "x < 0.0f ? 0.0f : x", "x"),
    ("matmul.cu", "dots[0] + dots[1] - F::OFFSET * all", "dots[0] + dots[1] + F::OFFSET * all"),
    ("matmul.cu", "w.run[h] % 2 ? s.sums[1]", "w.run[h] % 2 ? s.sums[0]"),
    ("matmul.cu", "if (w.bias) v += w.bias[row]", "if (w.bias) v -= w.bias[row]"),
    ("matmul.cu", "token += lane % TOKENS", "token += lane / TOKENS"),
    ("matmul.cu", "end.add ? *to + v : v", "end.add ? *to - v : v"),
    ("norm.cu", "first + blockIdx.x", "blockIdx.x"),
    ("norm.cu", "next[expert].type", "norm.type"),
    ("norm.cu", "+ norm.bias[c]", "- norm.bias[c]"),
]

# The tests that run a file's kernels.
TRAIN_TESTS = {
    "attention.cu": ["attention"],
    "attention_mma.cu": ["attention"],
    "common.cuh": ["training_steps"],
    "elementwise.cu": ["activation", "linear"],
    "embed.cu": ["embedding"],
    "gemm_bf16.cu": ["linear"],
    "gemm_f32.cu": ["linear"],
    "head.cu": ["head"],
    "norm.cu": ["layer_norm", "residual_norm"],
    "optimizer.cu": ["optimizer"],
}


def runtime_tests_of(name):
    """Several experts side by side matter to few kernels."""
    return ["every_model", "mixtures"] if name == "attention.cu" else ["every_model"]


def survivors_of(mutations, variable, kernels, scratch, command):
    """The mistakes with which the tests pass all the same."""
    survivors = []
    for number, (name, old, new) in enumerate(mutations):
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(kernels, scratch)
        source = scratch / name
        text = source.read_text()
        if old not in text:
            sys.exit(f"{name} has no {old!r} any more: mend tests/cuda_mutations.py")
        source.write_text(text.replace(old, new, 1))
        environment = dict(os.environ, **{variable: str(scratch)})
        result = subprocess.run(command(name), env=environment, capture_output=True)
        if result.returncode == 0:
            survivors.append(f"{name}: {old!r} -> {new!r}")
        print(f"\r{number + 1}/{len(mutations)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    shutil.rmtree(scratch, ignore_errors=True)
    return survivors


def main():
    scratch, train, train_tests, runtime, runtime_tests = sys.argv[1:]
    scratch = pathlib.Path(scratch).absolute()
    survivors = survivors_of(
        TRAIN, "XELM_KERNELS", train, scratch, lambda name: [train_tests, "--exact", *TRAIN_TESTS[name]]
    )
    command = lambda name: [runtime_tests, "--exact", *runtime_tests_of(name)]
    survivors += survivors_of(RUNTIME, "XELM_RUNTIME_KERNELS", runtime, scratch, command)
    n = len(TRAIN) + len(RUNTIME)
    print(f"{n - len(survivors)} of {n} mistakes found")
    if survivors:
        sys.exit("not found:\n" + "\n".join(survivors))


if __name__ == "__main__":
    main()
