"""Programs measured turn about, and tables of what they did: for speed.py and shortlist.py."""

import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

# Where kernels branch.
FLAGS = ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm"]


def run(command):
    """What a program prints as JSON, and how many bytes of memory were resident at its largest."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(command)}: exit code {process.returncode}\n{errors.read().decode()}")
    return json.loads(printed), usage.ru_maxrss * 1024


def tokens_per_s(results):
    """Of llama-bench's results, by test."""
    return {"prefill" if r["n_prompt"] else "decode": r["avg_ts"] for r in results}


def in_turns(n_rounds, *contenders):
    """What the contenders measured in each round. Who comes first in one round comes last in the next."""
    results = []
    for i in range(n_rounds):
        order = contenders[::1 if i % 2 == 0 else -1]
        of = {contender: contender() for contender in order}
        results.append([of[contender] for contender in contenders])
    return results


def spread(numbers, digits):
    """Median, lowest, highest."""
    numbers = list(numbers)
    return [f"{x:.{digits}f}" for x in (statistics.median(numbers), min(numbers), max(numbers))]


def row(*cells):
    print("\t".join(map(str, cells)), flush=True)


def head(what, llama_bench, *commands):
    """Says what is measured, when and where."""
    cpu = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    value = lambda *keys: next((l.split(":")[1].strip() for l in cpu if l.split("\t")[0] in keys), "?")
    flags = set(value("flags", "Features").split())
    build = next(pathlib.Path(llama_bench).parent.glob("libggml-base.so.*.*.*"), pathlib.Path("?"))
    ggml = build.name.removeprefix("libggml-base.so.")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    print(f"# {datetime.datetime.now():%Y-%m-%d %H:%M}; {value('model name')}, {os.cpu_count()} cores,"
          f" {' '.join(f for f in FLAGS if f in flags)}; load {os.getloadavg()[0]:.1f}")
    print(f"# {what}; xelm {commit}; llama.cpp of llama-cpp-python 0.3.36, ggml {ggml}, native")
    for command in commands:
        print(f"# {command}")
