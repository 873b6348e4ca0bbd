"""What `xelm-decode-speed run` does, in llama.cpp: prints tokens per second.

usage: llama_decode.py FILE THREADS SECONDS

The next token is a fixed one: choosing it in Python would be measured too.
"""

import ctypes as c
import sys
import time

from llama import Context, Llama

N_CTX, WARM = 256, 32

context = Context(Llama(sys.argv[1]), N_CTX, n_threads=int(sys.argv[2]))
seconds = float(sys.argv[3])
token = (c.c_int32 * 1)(2)
for _ in range(WARM):
    context.read(token)
context.clear()
start, n = time.monotonic(), 0
while time.monotonic() - start < seconds:
    if n and n % N_CTX == 0:
        context.clear()
    context.read(token)
    n += 1
print(f"{n / (time.monotonic() - start):.2f}")
