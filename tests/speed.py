"""Prefill and decode beside llama.cpp: see speed.sh.

usage: speed.py XELM LLAMA_BENCH INT8_PEAK MODELS TYPES THREADS ROUNDS
"""

import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys

PROMPT, GENERATE = 512, 64
# Where kernels branch.
FLAGS = ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm"]
XELM, LLAMA_BENCH, INT8_PEAK, MODELS = map(os.path.relpath, sys.argv[1:5])
TYPES, THREADS = sys.argv[5].split(), sys.argv[6].split()
ROUNDS = int(sys.argv[7])
# Multiply-adds of the layers' matrices for a token of a prefill, which computes no logits but the last: 12 C² a layer.
PRODUCTS = int(pathlib.Path(MODELS).name.split("-")[0]) * 12 * 1024**2
OURS = [XELM, "bench", "--json", "--temperature", "0", "--repeat", "1", "--ctx", str(PROMPT),
        "--prompt", str(PROMPT), "--generate", str(GENERATE)]
THEIRS = [LLAMA_BENCH, "-o", "json", "-r", "1", "-p", str(PROMPT), "-n", str(GENERATE)]


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def ours(threads, *model):
    return run([*OURS, "--threads", threads, *model])


def theirs(threads, path):
    results = run([*THEIRS, "-t", threads, "-m", path])
    return {"prefill" if r["n_prompt"] else "decode": r["avg_ts"] for r in results}


def in_turns(*contenders):
    """What the contenders measured in each round. Who comes first in one round comes last in the next."""
    results = []
    for i in range(ROUNDS):
        order = contenders[::1 if i % 2 == 0 else -1]
        of = {contender: contender() for contender in order}
        results.append([of[contender] for contender in contenders])
    return results


def spread(numbers, digits):
    numbers = list(numbers)
    return [f"{x:.{digits}f}" for x in (statistics.median(numbers), min(numbers), max(numbers))]


def row(*cells):
    print("\t".join(map(str, cells)), flush=True)


def peak(threads):
    """GOP/s of products of bytes."""
    done = subprocess.run([INT8_PEAK, threads], capture_output=True, text=True, check=True)
    return float(done.stdout)


def compare(kind, threads):
    path = f"{MODELS}/{kind}.gguf"
    packed = f"{MODELS}/{kind}-packed.gguf"
    rounds = in_turns(lambda: ours(threads, "--expert", path), lambda: ours(threads, "--expert", packed),
                      lambda: theirs(threads, path), lambda: peak(threads))
    token_bytes = rounds[0][0]["weight_bytes_per_token"]
    for test in ["prefill", "decode"]:
        llama = [of[2][test] for of in rounds]
        for layout, index in [("standard", 0), ("packed", 1)]:
            xelm = [of[index][test]["tokens_per_s"] for of in rounds]
            if test == "decode":
                peaks, work = [of[index]["read"]["gb_per_s"] for of in rounds], token_bytes / 1e9
            else:
                peaks, work = [of[3] for of in rounds], 2e-9 * PRODUCTS
            medians = [statistics.median(rates) for rates in (xelm, llama)]
            shares = [statistics.median(work * r / p for r, p in zip(rates, peaks)) for rates in (xelm, llama)]
            row(kind, layout, f"{token_bytes / 1e6:.0f}", threads, test,
                *spread((x / y for x, y in zip(xelm, llama)), 2), *(f"{rate:.1f}" for rate in medians),
                *(f"{share:.2f}" for share in shares), *spread(peaks, 1))


def mix(kind, threads):
    """The time of two experts mixed over that of one, of the same set."""
    of = lambda m: lambda: ours(threads, "--set", f"{MODELS}/set-{kind}", "--top-m", m)
    rounds = in_turns(of("1"), of("2"))
    routing = f"{statistics.median(two['routing']['us_per_token'] for _, two in rounds):.1f}"
    for test in ["prefill", "decode"]:
        one, two = ([x[test]["tokens_per_s"] for x in side] for side in zip(*rounds))
        row(kind, threads, test, *spread((x / y for x, y in zip(one, two)), 2),
            *(f"{statistics.median(rates):.1f}" for rates in (one, two)), routing)


def head():
    cpu = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    value = lambda *keys: next((l.split(":")[1].strip() for l in cpu if l.split("\t")[0] in keys), "?")
    flags = set(value("flags", "Features").split())
    build = next(pathlib.Path(LLAMA_BENCH).parent.glob("libggml-base.so.*.*.*"), pathlib.Path("?"))
    ggml = build.name.removeprefix("libggml-base.so.")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"# {datetime.datetime.now():%Y-%m-%d %H:%M}; {value('model name')}, {os.cpu_count()} cores,"
          f" {' '.join(f for f in FLAGS if f in flags)}; load {os.getloadavg()[0]:.1f}")
    print(f"# {pathlib.Path(MODELS).name}: layers and vocabulary; xelm {commit}; llama.cpp of llama-cpp-python 0.3.36,"
          f" ggml {ggml}, native")
    print(f"# {' '.join(OURS)} --threads T --expert FILE")
    print(f"# {' '.join(THEIRS)} -t T -m FILE")
    print(f"# {ROUNDS} rounds, medians. ratio: xelm's tokens/s over llama.cpp's, of each round. xelm chooses each token,"
          " the most probable one; llama-bench takes any.")
    print("# share: of what the machine did with as many threads in the same round (peak; its median, lowest, highest)."
          " Decode: of the bandwidth, GB/s, with which xelm bench reads before and after it. Prefill: of the"
          " products of bytes, GOP/s, of tests/int8_peak.c.")


def main():
    head()
    row("type", "layout", "mb_per_token", "threads", "test", "ratio", "lowest", "highest", "xelm", "llama.cpp",
        "xelm_share", "llama.cpp_share", "peak", "peak_lowest", "peak_highest")
    for kind in TYPES:
        for threads in THREADS:
            compare(kind, threads)
    print("\n# Two experts mixed: time over that of one of the same set, tokens/s, microseconds of routing per token.")
    row("type", "threads", "test", "time", "lowest", "highest", "one", "two", "routing_us")
    for threads in THREADS:
        mix(TYPES[0], threads)
    print(f"# load at the end {os.getloadavg()[0]:.1f}")


main()
