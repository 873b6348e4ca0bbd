"""Opening a large expert and decoding with it, ours and llama.cpp's: see footprint.sh.

usage: footprint.py PROGRAM FILE          compares
       footprint.py --llama FILE THREADS N_TOKENS    what llama.cpp takes, as JSON
"""

import json
import os
import statistics
import subprocess
import sys
import time

REPETITIONS, THREADS, N_TOKENS = 7, 2, 64


def resident(key):
    line = next(l for l in open("/proc/self/status") if l.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def llama(path, n_threads, n_tokens):
    import ctypes as c

    from llama import Context, Llama

    before, start = resident("RssAnon"), time.monotonic()
    model = Llama(path)
    opened = time.monotonic() - start
    context = Context(model, 256, n_threads=n_threads)
    token = (c.c_int32 * 1)(2)
    context.read(token)
    first = time.monotonic() - start
    for _ in range(1, n_tokens):
        context.read(token)
    print(json.dumps({"open_ms": opened * 1e3, "first_token_ms": first * 1e3,
                      "anonymous": resident("RssAnon") - before}))


def forget(path):
    """Drops the file from the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(program, path):
    commands = {
        "xelm": [program, "footprint", path, str(THREADS), str(N_TOKENS)],
        "llama.cpp": [sys.executable, __file__, "--llama", path, str(THREADS), str(N_TOKENS)],
    }
    results = {name: {"cold": [], "warm": []} for name in commands}
    for _ in range(REPETITIONS):
        for state in ["cold", "warm"]:
            for name, command in commands.items():
                if state == "cold":
                    forget(path)
                out = subprocess.run(command, check=True, capture_output=True).stdout
                results[name][state].append(json.loads(out))
    median = lambda name, state, key: statistics.median(r[key] for r in results[name][state])
    print(f"{os.path.getsize(path) / 1e6:.0f} MB expert, {THREADS} threads, medians of {REPETITIONS}")
    print(f"{'':24}{'open, cold':>12}{'open, warm':>12}{'1st token, cold':>17}{'anonymous memory':>18}")
    for name in commands:
        print(f"{name:24}{median(name, 'cold', 'open_ms'):9.1f} ms{median(name, 'warm', 'open_ms'):9.1f} ms"
              f"{median(name, 'cold', 'first_token_ms'):14.0f} ms"
              f"{median(name, 'warm', 'anonymous') / 1e6:15.1f} MB")
    plan, anonymous = median("xelm", "warm", "plan"), median("xelm", "warm", "anonymous")
    share = anonymous / plan
    print(f"xelm: the plan is {plan / 1e6:.1f} MB, anonymous memory while decoding {share:.0%} of it;"
          f" opening maps {median('xelm', 'cold', 'mapped_by_opening') / 1e6:.1f} MB of files in all")
    sys.exit(not 0.9 <= share <= 1.1)


if sys.argv[1] == "--llama":
    llama(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
else:
    main(*sys.argv[1:])
