"""Prefill and decode beside llama.cpp: see speed.sh.

usage: speed.py XELM LLAMA_BENCH MODELS TYPES THREADS ROUNDS
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
XELM, LLAMA_BENCH, MODELS = map(os.path.relpath, sys.argv[1:4])
TYPES, THREADS = sys.argv[4].split(), sys.argv[5].split()
ROUNDS = int(sys.argv[6])
BEST_READ = dict.fromkeys(THREADS, 0.0)
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


def in_turns(a, b):
    """What two contenders measured in each round. Who comes first in one round comes second in the next."""
    results = []
    for i in range(ROUNDS):
        pair = {}
        for contender in [a, b][::1 if i % 2 == 0 else -1]:
            pair[contender] = contender()
        results.append((pair[a], pair[b]))
    return results


def spread(numbers, digits):
    numbers = list(numbers)
    return [f"{x:.{digits}f}" for x in (statistics.median(numbers), min(numbers), max(numbers))]


def row(*cells):
    print("\t".join(map(str, cells)), flush=True)


def compare(kind, threads):
    path = f"{MODELS}/{kind}.gguf"
    rounds = in_turns(lambda: ours(threads, "--expert", path), lambda: theirs(threads, path))
    # What memory can do is the best that was seen: what else ran only takes from it.
    read = BEST_READ[threads] = max(BEST_READ[threads], *(x["read"]["gb_per_s"] for x, _ in rounds))
    token_bytes = rounds[0][0]["weight_bytes_per_token"]
    for test in ["prefill", "decode"]:
        xelm, llama = [x[test]["tokens_per_s"] for x, _ in rounds], [y[test] for _, y in rounds]
        medians = [statistics.median(rates) for rates in (xelm, llama)]
        shares = ["", "", ""]
        if test == "decode":
            shares = [*(f"{rate * token_bytes / 1e9 / read:.2f}" for rate in medians), f"{read:.1f}"]
        row(kind, f"{token_bytes / 1e6:.0f}", threads, test, *spread((x / y for x, y in zip(xelm, llama)), 2),
            *(f"{rate:.1f}" for rate in medians), *shares)


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
    print("# share: of the bandwidth with which as many threads read, the best until then, in GB/s.")


def main():
    head()
    row("type", "mb_per_token", "threads", "test", "ratio", "lowest", "highest", "xelm", "llama.cpp", "xelm_share",
        "llama.cpp_share", "read_gb_per_s")
    for kind in TYPES:
        for threads in THREADS:
            compare(kind, threads)
    print("\n# Two experts mixed: time over that of one of the same set, tokens/s, microseconds of routing per token.")
    row("type", "threads", "test", "time", "lowest", "highest", "one", "two", "routing_us")
    for threads in THREADS:
        mix(TYPES[0], threads)
    print(f"# load at the end {os.getloadavg()[0]:.1f}")


main()
