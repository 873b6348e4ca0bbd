"""Decoding with a whole output layer and with a shortlist's, beside llama.cpp: see shortlist.sh.

usage: shortlist.py XELM LLAMA_BENCH WHOLE LIST LIST_PACKED THREADS ROUNDS
"""

import os
import statistics
import sys

from side_by_side import head, in_turns, row, run, spread, tokens_per_s

PROMPT, GENERATE = "64", "48"
XELM, LLAMA_BENCH, WHOLE, LIST, PACKED = map(os.path.relpath, sys.argv[1:6])
THREADS, ROUNDS = sys.argv[6].split(), int(sys.argv[7])
OURS = [XELM, "bench", "--json", "--temperature", "0", "--repeat", "1", "--ctx", "128", "--prompt", PROMPT,
        "--generate", GENERATE]
THEIRS = [LLAMA_BENCH, "-o", "json", "-r", "1", "-p", PROMPT, "-n", GENERATE]
# What `xelm bench` reads to measure bandwidth, and no other command has.
BUFFER = 256 << 20


def ours(threads, path):
    result, memory = run([*OURS, "--threads", threads, "--expert", path])
    return result["decode"]["tokens_per_s"], memory - BUFFER


def theirs(threads, path):
    result, memory = run([*THEIRS, "-t", threads, "-m", path])
    return tokens_per_s(result)["decode"], memory


def main():
    head("XGLM-564M's shape, Q8_0", LLAMA_BENCH, f"{' '.join(OURS)} --threads T --expert FILE",
         f"{' '.join(THEIRS)} -t T -m FILE")
    print(f"# {ROUNDS} rounds; decoded tokens/s, and ratios of each round to the whole layer's and llama.cpp's: median,"
          " lowest, highest. Resident memory at its largest, MB, the mapped file included; of xelm's without the"
          f" {BUFFER >> 20} MiB with which bench measures bandwidth.")
    row("file", "threads", "tokens_per_s", "of_whole", "lowest", "highest", "of_llama.cpp", "lowest", "highest", "mb")
    for threads in THREADS:
        names = [WHOLE, LIST, PACKED, "llama.cpp"]
        of = [(lambda path: lambda: ours(threads, path))(path) for path in names[:3]]
        rounds = in_turns(ROUNDS, *of, lambda: theirs(threads, WHOLE))
        speeds = [[speed for speed, _ in of] for of in zip(*rounds)]
        for name, own, of in zip(names, speeds, zip(*rounds)):
            ratios = [spread((x / y for x, y in zip(own, base)), 2) for base in (speeds[0], speeds[3])]
            memory = statistics.median(memory for _, memory in of) / 1e6
            row(os.path.basename(name), threads, spread(own, 1)[0], *ratios[0], *ratios[1], f"{memory:.0f}")
    print(f"# load at the end {os.getloadavg()[0]:.1f}")


main()
