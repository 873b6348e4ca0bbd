"""Compares `xelm tokenize` with SentencePiece, id for id: see tokenizer.sh.

usage: tokenizer.py XELM RUN CACHE [SPM_MODEL]
"""

import pathlib
import random
import subprocess
import sys

import sentencepiece

from spm import our_ids, sentencepiece_twin, strings

N_STRINGS = 4000
# Every block of the basic plane and some beyond has its turn, with marks, joiners and odd spaces between.
BLOCKS = [range(start, start + 128) for start in range(0, 0x10000, 128) if not 0xD800 <= start < 0xE000]
BLOCKS += [range(start, start + 128) for start in (0x1F300, 0x1F600, 0x1F900, 0x20000, 0x10400, 0x1D400)]
BETWEEN = [" ", "  ", "\u3000", "\u00a0", "\u200d", "\u0301", "\u0001", "\t", "\u2581", "\ufeff"]


def of_all_scripts(rng, n):
    out = []
    for i in range(n):
        block = BLOCKS[i % len(BLOCKS)]
        parts = [chr(rng.choice(block)) if rng.random() < 0.8 else rng.choice(BETWEEN)
                 for _ in range(rng.randrange(1, 40))]
        out.append("".join(parts))
    # Lines end the input, and no text holds a zero byte.
    return [t.replace("\n", " ").replace("\r", " ").replace("\0", "") for t in out]


def invalid_utf8(rng, texts):
    """Texts with bytes cut out, changed and put in."""
    out = []
    for text in texts:
        data = bytearray(text.encode())
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data) + 1)
            data[at:at + rng.randrange(2)] = bytes(rng.choice([0x80, 0xC3, 0xE2, 0xED, 0xF0, 0xFF])
                                                   for _ in range(rng.randrange(2)))
        out.append(bytes(data).replace(b"\n", b" ").replace(b"\0", b""))
    return out


def main():
    xelm, run, cache = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    expert = next(f for f in sorted((run / "set").glob("*.gguf")) if f.name != "set.gguf")
    cases = [("a vocabulary of ours", expert, "--expert", sentencepiece_twin(expert))]
    if len(sys.argv) > 4:
        vocabulary = cache / "imported.gguf"
        subprocess.run([xelm, "tokenizer", "import", "--sentencepiece", sys.argv[4], "--out", vocabulary],
                       check=True, stdout=subprocess.DEVNULL)
        twin = sentencepiece.SentencePieceProcessor(model_file=sys.argv[4])
        cases.append(("an imported vocabulary", vocabulary, "--vocab", twin))
    else:
        print("skipped: an imported vocabulary (XELM_SPM names no model)")
    rng = random.Random(11)
    texts = strings(run, rng, N_STRINGS) + of_all_scripts(rng, N_STRINGS)
    broken = invalid_utf8(rng, [t for t in texts if t][:1000])
    failed = False
    for name, path, flag, twin in cases:
        # The id of SentencePiece's piece p is p + 1; its unknown piece, 0, is 3.
        expected = lambda text: [2] + [3 if i == 0 else i + 1 for i in twin.encode(text)]
        for kind, inputs in [("texts", [t.encode() for t in texts]), ("of invalid UTF-8", broken)]:
            data = b"".join(text + b"\n" for text in inputs)
            ours = our_ids(xelm, path, data, flag)
            assert len(ours) == len(inputs)
            different = [t for t, ids in zip(inputs, ours) if ids != expected(t)]
            failed |= bool(different)
            for text in different[:5]:
                print("differs:", text, expected(text), our_ids(xelm, path, text + b"\n", flag)[0])
            print(f"{name}: {len(inputs)} {kind}, {len(different)} different")
    sys.exit(failed)


main()
