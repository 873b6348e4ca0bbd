"""Prefill and decode beside llama.cpp: see speed.sh.

usage: speed.py XELM LLAMA_BENCH INT8_PEAK MODELS TYPES THREADS ROUNDS
"""

import os
import pathlib
import statistics
import subprocess
import sys

from side_by_side import head, in_turns, row, run, spread, tokens_per_s

PROMPT, GENERATE = 512, 64
XELM, LLAMA_BENCH, INT8_PEAK, MODELS = map(os.path.relpath, sys.argv[1:5])
TYPES, THREADS = sys.argv[5].split(), sys.argv[6].split()
ROUNDS = int(sys.argv[7])
# Multiply-adds of the layers' matrices for a token of a prefill, which computes no logits but the last: 12 C² a layer.
PRODUCTS = int(pathlib.Path(MODELS).name.split("-")[0]) * 12 * 1024**2
OURS = [XELM, "bench", "--json", "--temperature", "0", "--repeat", "1", "--ctx", str(PROMPT),
        "--prompt", str(PROMPT), "--generate", str(GENERATE)]
THEIRS = [LLAMA_BENCH, "-o", "json", "-r", "1", "-p", str(PROMPT), "-n", str(GENERATE)]


def ours(threads, *model):
    return run([*OURS, "--threads", threads, *model])[0]


def theirs(threads, path):
    return tokens_per_s(run([*THEIRS, "-t", threads, "-m", path])[0])


def peak(threads):
    """GOP/s of products of bytes."""
    done = subprocess.run([INT8_PEAK, threads], capture_output=True, text=True, check=True)
    return float(done.stdout)


def compare(kind, threads):
    path = f"{MODELS}/{kind}.gguf"
    packed = f"{MODELS}/{kind}-packed.gguf"
    rounds = in_turns(ROUNDS, lambda: ours(threads, "--expert", path), lambda: ours(threads, "--expert", packed),
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
    rounds = in_turns(ROUNDS, of("1"), of("2"))
    routing = f"{statistics.median(two['routing']['us_per_token'] for _, two in rounds):.1f}"
    for test in ["prefill", "decode"]:
        one, two = ([x[test]["tokens_per_s"] for x in side] for side in zip(*rounds))
        row(kind, threads, test, *spread((x / y for x, y in zip(one, two)), 2),
            *(f"{statistics.median(rates):.1f}" for rates in (one, two)), routing)


def main():
    head(f"{pathlib.Path(MODELS).name}: layers and vocabulary", LLAMA_BENCH,
         f"{' '.join(OURS)} --threads T --expert FILE", f"{' '.join(THEIRS)} -t T -m FILE")
    print(f"# {ROUNDS} rounds, medians. ratio: xelm's tokens/s over llama.cpp's, of each round. xelm chooses each token,"
          " the most probable one; llama-bench takes any.")
    print("# share: of what the machine did with as many threads in the same round (peak; its median, lowest, highest)."
          " Decode: of the bandwidth, GB/s, with which xelm bench reads before and after it. Prefill: of the"
          " products of bytes, GOP/s, of tests/int8_peak.c.")
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
