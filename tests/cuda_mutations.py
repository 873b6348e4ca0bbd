"""Plants one mistake after another in the CUDA kernels and runs the tests: each must fail.

    cuda_mutations.py KERNELS SCRATCH TEST_BINARY
"""

import os
import pathlib
import shutil
import subprocess
import sys

# File, what stands there, what is put in its place: flipped signs, mostly in the backward kernels.
MUTATIONS = [
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
    ("elementwise.cu", "+ x * density", "- x * density"),
    ("elementwise.cu", "(1.0f - t * t) * slope", "(1.0f + t * t) * slope"),
    ("elementwise.cu", "return x > 0.0f ? 1.0f : 0.0f", "return x > 0.0f ? -1.0f : 0.0f"),
    ("elementwise.cu", "store(&result.at[j], x ? to_float(base.at[j]) + v : v)", "store(&result.at[j], x ? to_float(base.at[j]) + v : -v)"),
    ("elementwise.cu", "sum += to_float(x[(u64)row", "sum -= to_float(x[(u64)row"),
    ("elementwise.cu", "out[c] += sum", "out[c] -= sum"),
    ("embed.cu", "sum += scale * to_float(d_out", "sum -= scale * to_float(d_out"),
    ("gemm_bf16.cu", "accumulate ? to_float(*to) + v : v", "accumulate ? to_float(*to) - v : v"),
    ("gemm_bf16.cu", "            copy_wait<1>();\n", "            copy_wait<2>();\n"),
    ("gemm_f32.cu", "accumulate ? *to + v : v", "accumulate ? *to - v : v"),
    ("head.cu", "v == target ? p - scale : p", "v == target ? p + scale : p"),
    ("head.cu", "max + logf(sum) - at_target", "max - logf(sum) - at_target"),
    ("norm.cu", "rstd * (g - g_mean - y * gy_mean)", "rstd * (g + g_mean - y * gy_mean)"),
    ("norm.cu", "rstd * (g - g_mean - y * gy_mean)", "rstd * (g - g_mean + y * gy_mean)"),
    ("norm.cu", "d_weight += d * y", "d_weight -= d * y"),
    ("norm.cu", "d_bias += d", "d_bias -= d"),
    ("optimizer.cu", "p[i] * keep - step", "p[i] * keep + step"),
    ("optimizer.cu", "max_norm / length", "length / max_norm"),
]

# The tests that run a file's kernels.
TESTS = {
    "attention.cu": ["attention"],
    "attention_mma.cu": ["attention"],
    "elementwise.cu": ["activation", "residual", "linear"],
    "embed.cu": ["embedding"],
    "gemm_bf16.cu": ["linear"],
    "gemm_f32.cu": ["linear"],
    "head.cu": ["head"],
    "norm.cu": ["layer_norm"],
    "optimizer.cu": ["optimizer"],
}


def main():
    kernels, scratch, binary = sys.argv[1:]
    scratch = pathlib.Path(scratch).absolute()
    survivors = []
    for number, (name, old, new) in enumerate(MUTATIONS):
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(kernels, scratch)
        source = scratch / name
        text = source.read_text()
        if old not in text:
            sys.exit(f"{name} has no {old!r} any more: mend tests/cuda_mutations.py")
        source.write_text(text.replace(old, new, 1))
        environment = dict(os.environ, XELM_KERNELS=str(scratch))
        result = subprocess.run([binary, "--exact", *TESTS[name]], env=environment, capture_output=True)
        if result.returncode == 0:
            survivors.append(f"{name}: {old!r} -> {new!r}")
        print(f"\r{number + 1}/{len(MUTATIONS)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    shutil.rmtree(scratch, ignore_errors=True)
    print(f"{len(MUTATIONS) - len(survivors)} of {len(MUTATIONS)} mistakes found")
    if survivors:
        sys.exit("not found:\n" + "\n".join(survivors))


if __name__ == "__main__":
    main()
