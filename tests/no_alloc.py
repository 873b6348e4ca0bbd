"""Allocations of llama.cpp in its first prefill and per decoded token: see no_alloc.sh.

usage: LD_PRELOAD=libcount_malloc.so no_alloc.py FILE
"""

import ctypes as c
import statistics
import sys

from llama import Context, Llama, lib

N_PROMPT, N_DECODED, N_CTX = 32, 30, 64


class Counts(c.Structure):
    _fields_ = [(name, c.c_uint64) for name in ["allocations", "bytes", "frees", "mappings"]]


counter = c.CDLL(None)
counts = Counts()
where = c.byref(counts)
begin, end = counter.xelm_count_begin, counter.xelm_count_end


def read(context, ids):
    """Reads tokens; returns allocations and bytes. The batch is made before, so that the call is all
    that Python does meanwhile."""
    batch = lib.llama_batch_get_one(ids, len(ids))
    begin()
    status = lib.llama_decode(context, batch)
    end(where)
    assert status == 0
    return counts.allocations, counts.bytes


def call_of_python():
    """What Python itself allocates in a call that takes a batch and does nothing with it."""
    batch = lib.llama_batch_init(1, 0, 1)
    begin()
    lib.llama_batch_free(batch)
    end(where)
    return counts.allocations


context = Context(Llama(sys.argv[1]), N_CTX, n_threads=2).context
one = (c.c_int32 * 1)(2)
prompt = (c.c_int32 * N_PROMPT)(*[2] * N_PROMPT)
first, first_bytes = read(context, prompt)
per_token = [read(context, one) for _ in range(N_DECODED)]
print(f"llama.cpp, first prefill of {N_PROMPT} tokens: {first} allocations, {first_bytes} bytes")
print(f"llama.cpp, per decoded token (median of {N_DECODED}):",
      f"{statistics.median(n for n, _ in per_token):.0f} allocations,",
      f"{statistics.median(b for _, b in per_token):.0f} bytes")
print(f"of which Python's own: {call_of_python()}")
