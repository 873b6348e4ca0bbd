"""What the tests against SentencePiece share: texts that hurt, and SentencePiece with our vocabularies."""

import json
import struct
import subprocess
import sys
import unicodedata

import sentencepiece
import sentencepiece.sentencepiece_model_pb2 as spm


def our_ids(xelm, path, texts, flag="--expert"):
    """Ids of a list of texts, or of the lines of some bytes."""
    data = texts if isinstance(texts, bytes) else "".join(t + "\n" for t in texts).encode()
    out = subprocess.run([xelm, "tokenize", flag, path, "--json"], input=data, check=True,
                         capture_output=True).stdout
    return [json.loads(line) for line in out.decode().splitlines()]


def walk(data):
    """Metadata arrays of a GGUF file, and where its tensor descriptions end."""
    formats = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    at, arrays = 24, {}

    def take(fmt):
        nonlocal at
        values = struct.unpack_from("<" + fmt, data, at)
        at += struct.calcsize("<" + fmt)
        return values

    def string():
        nonlocal at
        n = take("Q")[0]
        at += n
        return data[at - n:at].decode()

    def value(key):
        kind = take("I")[0]
        if kind == 8:
            return string()
        if kind == 9:
            of, n = take("I")[0], take("Q")[0]
            arrays[key] = [string() for _ in range(n)] if of == 8 else take(f"{n}{formats[of]}")
        else:
            take(formats[kind])

    n_tensors, n_kv = struct.unpack_from("<QQ", data, 8)
    for _ in range(n_kv):
        value(string())
    for _ in range(n_tensors):
        string()
        take(f"{take('I')[0]}Q")
        take("IQ")
    return arrays, at


def strings(run, rng, n_strings):
    """Held-out texts, pieces of them, and characters chosen to hurt."""
    corpus = sorted(run.glob("corpus/*.valid.txt")) or sys.exit("the run has no bundled corpus")
    texts = [d for f in corpus for d in f.read_text().split("\n\n")]
    texts = [" ".join(t.split("\n")) for t in texts]
    nasty = list(" \t\u00a0\u3000\u200b\u200d\ufeff\u00ad\u2028▁éüβжЖ한글ｶﾞﾊﾟ㎏½ﬁ①ｱア家\U0001f600नि‍") + [
        "e\u0301", "</s>", "<unk>", "<s>", "  ", "…", "－", "ự", "\u1112\u1161\u11ab", "\u0001", "Å",
    ]
    out = ["", " ", "a", "▁", "</s>", " x ", "é", "e\u0301"]
    while len(out) < n_strings:
        kind = len(out) % 4
        text = rng.choice(texts)
        if kind == 0:
            start = rng.randrange(len(text))
            out.append(text[start:start + rng.randrange(1, 120)])
        elif kind == 1:
            out.append(unicodedata.normalize(rng.choice(["NFD", "NFKD"]), text[:80]))
        elif kind == 2:
            out.append("".join(rng.choice(nasty) for _ in range(rng.randrange(1, 12))))
        else:
            parts = [rng.choice(nasty) if rng.random() < 0.3 else rng.choice(text) for _ in range(40)]
            out.append("".join(parts))
    return [t.replace("\n", " ").replace("\0", "") for t in out]


def sentencepiece_twin(path):
    """SentencePiece's own processor with the vocabulary and the character map of an expert file."""
    arrays, _ = walk(path.read_bytes())
    model = spm.ModelProto()
    kinds = {1: spm.ModelProto.SentencePiece.NORMAL}
    piece = spm.ModelProto.SentencePiece
    for text, kind in [("<unk>", piece.UNKNOWN), ("<s>", piece.CONTROL), ("</s>", piece.CONTROL)]:
        model.pieces.add(piece=text, score=0.0, type=kind)
    tokens, scores, types = (arrays[f"tokenizer.ggml.{k}"] for k in ["tokens", "scores", "token_type"])
    for text, score, kind in list(zip(tokens, scores, types))[4:]:
        model.pieces.add(piece=text, score=score, type=kinds[kind])
    model.trainer_spec.model_type = spm.TrainerSpec.UNIGRAM
    model.normalizer_spec.precompiled_charsmap = bytes(arrays["tokenizer.ggml.precompiled_charsmap"])
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = True
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
