"""Compares `xelm` with llama.cpp on the same files: see llama_compat.sh.

usage: llama_compat.py XELM RUN CACHE
"""

import ctypes as c
import json
import pathlib
import random
import struct
import subprocess
import sys

import numpy as np

from llama import Context, Llama, lib
from spm import our_ids, sentencepiece_twin, strings, walk

XELM, RUN, CACHE = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
N_STRINGS = 500
N_SEQUENCES = 12  # of the model's whole context each


def their_logits(llama, tokens):
    context = Context(llama, len(tokens), exact=True)
    batch = lib.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    arrays = [
        (batch.token, c.c_int32), (batch.pos, c.c_int32), (batch.n_seq_id, c.c_int32),
        (batch.logits, c.c_int8),
    ]
    token, pos, n_seq, want = [c.cast(p, c.POINTER(t)) for p, t in arrays]
    seq = c.cast(batch.seq_id, c.POINTER(c.POINTER(c.c_int32)))
    for i, id in enumerate(tokens):
        token[i], pos[i], n_seq[i], want[i] = id, i, 1, 1
        seq[i][0] = 0
    context.decode(batch)
    row = lambda i: lib.llama_get_logits_ith(context.context, i)
    rows = [np.ctypeslib.as_array(row(i), (llama.n_vocab,)).copy() for i in range(len(tokens))]
    lib.llama_batch_free(batch)
    context.free()
    return np.stack(rows)


def our_logits(path, tokens):
    out = CACHE / "logits.npy"
    ids = ",".join(map(str, tokens))
    subprocess.run([XELM, "logits", "--expert", path, "--tokens", ids, "--out", out], check=True)
    return np.load(out)


def with_tanh_gelu(path):
    """A copy of an expert file that declares the tanh form of GELU: one key is a byte longer, the
    padding before the tensors a byte shorter."""
    data = path.read_bytes()
    old = struct.pack("<Q", 8) + b"gelu_erf"
    at = data.index(old)
    _, end = walk(data)
    start = -(-end // 64) * 64
    assert start > end, "no padding to take a byte from"
    new = struct.pack("<Q", 9) + b"gelu_tanh"
    out = CACHE / "tanh.gguf"
    head = data[:at] + new + data[at + len(old):end]
    out.write_bytes(head + bytes(start - len(head)) + data[start:])
    return out


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def main():
    rng = random.Random(7)
    failures = []

    def check(what, value, good):
        print(f"{what:<58} {value:>12}  {'ok' if good else 'FAILS'}")
        if not good:
            failures.append(what)

    expert = next(f for f in sorted((RUN / "set").glob("*.gguf")) if f.name != "set.gguf")
    name = expert.name
    texts = strings(RUN, rng, N_STRINGS)
    llama = Llama(expert)
    ours = our_ids(XELM, expert, texts)
    different = [t for t, ids in zip(texts, ours) if ids != llama.tokenize(t)]
    for t in different[:5]:
        print("differs:", repr(t), llama.tokenize(t), our_ids(XELM, expert, [t])[0])
    check(f"token ids, {len(texts)} strings: different", len(different), not different)

    spm_ids = sentencepiece_twin(expert)
    many = texts + strings(RUN, random.Random(8), 4000)
    to_ours = lambda ids: [2] + [3 if i == 0 else i + 1 for i in ids]
    different = [t for t, ids in zip(many, our_ids(XELM, expert, many)) if ids != to_ours(spm_ids.encode(t))]
    for t in different[:5]:
        print("differs:", repr(t), to_ours(spm_ids.encode(t)), our_ids(XELM, expert, [t])[0])
    check(f"SentencePiece, {len(many)} strings: different", len(different), not different)

    info = json.loads(subprocess.run([XELM, "inspect", expert, "--json"], check=True,
                                     capture_output=True).stdout)
    n_ctx = info["metadata"]["gpt2.context_length"]
    stream = [i for ids in our_ids(XELM, expert, [t for t in texts if len(t) > 60]) for i in ids]
    sequences = [[2] + stream[i * n_ctx:(i + 1) * n_ctx - 1] for i in range(N_SEQUENCES)]
    n = sum(map(len, sequences))

    def both(path):
        model = Llama(path)
        theirs = np.concatenate([their_logits(model, s) for s in sequences])
        mine = np.concatenate([our_logits(path, s) for s in sequences])
        model.free()
        return mine, theirs

    tanh = with_tanh_gelu(expert)
    for what, path, bound in [("F32", expert, 1e-2), ("F32, gelu_tanh", tanh, 2e-3)]:
        mine, theirs = both(path)
        delta = np.abs(mine - theirs).max()
        top1 = (mine.argmax(-1) == theirs.argmax(-1)).mean()
        check(f"{what}, {n} positions: max |Δ logit|", f"{delta:.2e}", delta <= bound)
        check(f"{what}: same top token", f"{100 * top1:.2f} %", top1 >= 0.999)
    for kind in ["q8_0", "q4_0"]:
        mine, theirs = both(RUN / f"set-{kind}" / name)
        p, q = log_softmax(mine), log_softmax(theirs)
        kld = (np.exp(p) * (p - q)).sum(-1).mean()
        top1 = (mine.argmax(-1) == theirs.argmax(-1)).mean()
        check(f"{kind}: mean KL divergence", f"{kld:.2e}", kld <= 1e-3)
        check(f"{kind}: same top token", f"{100 * top1:.2f} %", top1 >= 0.98)
    sys.exit(1 if failures else 0)


main()
