"""Decoding speed alone and beside two busy processes: see contention.sh.

usage: contention.py PROGRAM FILE [THREADS [REPETITIONS [SECONDS]]]
"""

import os
import pathlib
import statistics
import subprocess
import sys
import time

PROGRAM, FILE = sys.argv[1:3]
THREADS, REPETITIONS, SECONDS = (sys.argv[3:] + ["2", "5", "3"][len(sys.argv) - 3:])[:3]
N_BUSY = 2
LLAMA = [sys.executable, pathlib.Path(__file__).parent / "llama_decode.py"]
CONTENDERS = {
    "xelm": ([PROGRAM, "run"], {}),
    "llama.cpp": (LLAMA, {}),
    "llama.cpp, OMP_WAIT_POLICY=passive": (LLAMA, {"OMP_WAIT_POLICY": "passive"}),
}


def speed(contender):
    command, variables = CONTENDERS[contender]
    done = subprocess.run([*command, FILE, THREADS, SECONDS], check=True, stdout=subprocess.PIPE,
                          env=os.environ | variables)
    return float(done.stdout)


class Busy:
    """Processes that never wait."""

    def __enter__(self):
        loop = [sys.executable, "-c", "while True: pass"]
        self.processes = [subprocess.Popen(loop) for _ in range(N_BUSY)]
        time.sleep(0.2)

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()


def main():
    n_cores, n = len(os.sched_getaffinity(0)), int(THREADS)
    # Of the cores that the threads can use, they keep a share: that of fair scheduling.
    alone = min(n, n_cores)
    kept = min(n, n_cores * n / (n + N_BUSY)) / alone
    print(f"{n} threads on {n_cores} cores, {N_BUSY} busy processes; of its cores a program keeps {kept:.2f}")
    speeds = {(who, busy): [] for who in CONTENDERS for busy in (False, True)}
    for repetition in range(int(REPETITIONS)):
        # Whoever comes first in one repetition comes last in the next.
        order = list(CONTENDERS)[::1 if repetition % 2 == 0 else -1]
        for who in order:
            speeds[who, False].append(speed(who))
            with Busy():
                speeds[who, True].append(speed(who))
    print(f"{'median tokens/s':<36} {'alone':>8} {'beside':>8} {'ratio':>6} {'ratio/kept':>10}")
    for who in CONTENDERS:
        alone, beside = (statistics.median(speeds[who, busy]) for busy in (False, True))
        ratio = beside / alone
        print(f"{who:<36} {alone:>8.1f} {beside:>8.1f} {ratio:>6.2f} {ratio / kept:>10.2f}")
        for busy in (False, True):
            print(f"  {'beside' if busy else 'alone':<34}", *(f"{s:.1f}" for s in speeds[who, busy]))
        if who == "xelm":
            fine = ratio >= kept / 2
    print("ok" if fine else "FAILS: slower than half of what the lost share explains")
    sys.exit(0 if fine else 1)


main()
