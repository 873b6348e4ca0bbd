"""Models of transformers imported and exported: see hf.sh.

usage: hf.py XELM CACHE
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import numpy
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, XGLMConfig, XGLMForCausalLM, XGLMTokenizer, logging

from xglm import write_vocabulary

XELM, CACHE = sys.argv[1], pathlib.Path(sys.argv[2])
# f32 on both sides.
TOLERANCE = 1e-4
# Share of the f32 model that an import may take of memory that is its own.
MEMORY = 0.25
TEXTS = [
    "Am Morgen scheint die Sonne.", "Η γάτα κοιμάται.", "今日は天気がいい。", "오늘은 날씨가 좋다.",
    "Доброе утро!", "हिन्दी में एक वाक्य", "صباح الخير", "Le   chat  dort ", " two  spaces ", "", "ﬁne ½ ①", "3,14 € 🙂",
    "a\tb\u3000c\u00a0d",
]

failed = []


def check(what, holds, figure=""):
    print(f"{'ok  ' if holds else 'FAIL'} {what}{': ' if figure else ''}{figure}")
    if not holds:
        failed.append(what)


def run(*args, **more):
    return subprocess.run([XELM, *map(str, args)], check=True, capture_output=True, **more).stdout.decode()


def folder(name):
    path = CACHE / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def our_logits(path, ids):
    out = CACHE / "logits.npy"
    run("logits", "--expert", path, "--tokens", ",".join(map(str, ids)), "--out", out)
    return numpy.load(out)


def their_logits(path, ids):
    model = XGLMForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def compare(what, ours, theirs):
    worst = float(abs(ours - theirs).max())
    check(what, worst <= TOLERANCE, f"largest difference of logits {worst:.1e} (at most {TOLERANCE:.0e})")


def same_weights(what, a, b):
    """Every tensor of two folders, bit for bit."""
    left, right = (load_file(next(f.glob("*.safetensors"))) for f in (a, b))
    left.pop("lm_head.weight", None)
    same = left.keys() == right.keys() and all(torch.equal(left[k].float(), right[k]) for k in left)
    check(what, same)


def same_ids(what, expert, exported):
    lines = "".join(text + "\n" for text in TEXTS).encode()
    out = subprocess.run([XELM, "tokenize", "--expert", expert, "--json"], input=lines, check=True,
                         capture_output=True).stdout.decode()
    ours = [json.loads(line) for line in out.splitlines()]
    fast = AutoTokenizer.from_pretrained(exported)
    slow = XGLMTokenizer.from_pretrained(exported)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(exported / "sentencepiece.bpe.model"))
    for name, theirs in [("AutoTokenizer", [fast(t)["input_ids"] for t in TEXTS]),
                         ("XGLMTokenizer", [slow(t)["input_ids"] for t in TEXTS]),
                         ("SentencePiece", [[2] + [i + 1 if i else 3 for i in pieces.encode(t)] for t in TEXTS])]:
        different = [(t, a, b) for t, a, b in zip(TEXTS, ours, theirs) if a != b]
        check(f"{what}, ids of {name}", not different, f"{len(TEXTS)} texts, {different[:2] or 'none differs'}")


def oracle(source):
    """The model whose logits were written down."""
    hf, expert, out = folder("oracle"), CACHE / "oracle.gguf", CACHE / "oracle-exported"
    shutil.copy(source / "config.json", hf)
    shutil.copy(source / "weights.safetensors", hf / "model.safetensors")
    base = source / "tokenizer/spm.model"
    write_vocabulary(hf / "sentencepiece.bpe.model", 512, base if base.exists() else None)
    run("import", "--hf", hf, "--out", expert, "--languages", "de,en")
    ids = load_file(source / "batch.safetensors")["input_ids"]
    expected = load_file(source / "forward_f32.safetensors")["logits"].numpy()
    for row in range(len(ids)):
        compare(f"oracle imported, row {row}", our_logits(expert, ids[row].tolist()), expected[row])
    run("export", "--hf", out, "--expert", expert)
    for row in range(len(ids)):
        compare(f"oracle exported, row {row}", their_logits(out, ids[row].tolist()), expected[row])
    same_ids("oracle exported", expert, out)
    # Its width is a power of 4: folding does not round.
    same_weights("oracle exported, weights the same bits", hf, out)
    # Only tokenizer.json.
    twin = folder("oracle-json")
    for name in ["config.json", "model.safetensors", "tokenizer.json"]:
        shutil.copy(out / name, twin)
    run("import", "--hf", twin, "--out", CACHE / "oracle-json.gguf", "--id", "oracle", "--languages", "de,en")
    same = (CACHE / "oracle-json.gguf").read_bytes() == expert.read_bytes()
    check("oracle from tokenizer.json alone, the same file", same)


def relu():
    """ReLU, an odd width, a duplicate head, through a run's checkpoint."""
    hf, expert, out = folder("relu"), CACHE / "relu.gguf", CACHE / "relu-exported"
    config = XGLMConfig(vocab_size=300, max_position_embeddings=64, d_model=60, ffn_dim=92, num_layers=3,
                        attention_heads=5, activation_function="relu", dropout=0.0)
    torch.manual_seed(2)
    model = XGLMForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(hf)
    weights = load_file(hf / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, hf / "model.safetensors", {"format": "pt"})
    letters = "".join(c for c in "".join(TEXTS).lower() if not c.isspace())
    write_vocabulary(hf / "sentencepiece.bpe.model", 300, letters=letters)
    ids = [2] + [int(i) for i in numpy.random.default_rng(1).integers(4, 290, 40)]
    expected = their_logits(hf, ids)
    corpus, root = folder("corpus"), CACHE / "relu-run"
    shutil.rmtree(root, ignore_errors=True)
    (corpus / "de.txt").write_text("Am Morgen.\n\nAm Abend.\n" * 40)
    run("import", "--hf", hf, "--out", expert, "--run", root, "--corpus", corpus)
    compare("relu imported", our_logits(expert, ids), expected)
    run("export", "--hf", out, "--expert", expert)
    compare("relu exported", their_logits(out, ids), expected)
    run("export", "--hf", out, "--checkpoint", root / "seed/checkpoint.gguf")
    same_weights("relu exported from a checkpoint, weights the same bits", hf, out)
    same_ids("relu exported from a checkpoint", expert, out)
    run("quantize", "--expert", expert, "--type", "f16", "--out", CACHE / "relu-f16.gguf")
    run("export", "--hf", out, "--expert", CACHE / "relu-f16.gguf")
    worst = float(abs(their_logits(out, ids) - expected).max())
    check("relu exported from an f16 file", 0 < worst < 0.2, f"largest difference {worst:.1e}")


def peak_memory(*args):
    """Runs xelm and returns its peaks in bytes: (resident, anonymous, mapped files). They are read from /proc while
    it runs: what `wait4` reports (ru_maxrss) counts the memory of this process, of which the other is forked."""
    process = subprocess.Popen([XELM, *map(str, args)], stdout=subprocess.DEVNULL)
    peaks = {"VmHWM": 0, "RssAnon": 0, "RssFile": 0}

    def watch():
        while process.returncode is None:
            try:
                lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                break
            for line in lines:
                key = line.split(":")[0]
                if key in peaks:
                    peaks[key] = max(peaks[key], int(line.split()[1]) * 1024)
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    status = process.wait()
    thread.join()
    if status:
        sys.exit(f"xelm {args[0]} failed")
    return peaks["VmHWM"], peaks["RssAnon"], peaks["RssFile"]


def large():
    """XGLM-564M's shape with random weights, in several fp16 files."""
    hf, expert = folder("large"), CACHE / "large.gguf"
    config = XGLMConfig(vocab_size=256008, max_position_embeddings=2048, d_model=1024, ffn_dim=4096,
                        num_layers=24, attention_heads=16, dropout=0.0)
    torch.manual_seed(1)
    model = XGLMForCausalLM(config).half()
    model.save_pretrained(hf, max_shard_size="300MB")
    n_shards = len(list(hf.glob("*.safetensors")))
    check("large model is in several files", n_shards > 2, f"{n_shards} files")
    write_vocabulary(hf / "sentencepiece.bpe.model", 256008)
    del model
    began = time.time()
    resident, anonymous, mapped = peak_memory("import", "--hf", hf, "--out", expert)
    seconds = time.time() - began
    f32 = 4 * 564_463_616
    check("large model imported", anonymous <= MEMORY * f32,
          f"{seconds:.1f} s, own memory {anonymous / 1e6:.0f} MB of {f32 / 1e6:.0f} MB in f32; resident with mapped "
          f"files {resident / 1e6:.0f} MB, mapped files {mapped / 1e6:.0f} MB")
    ids = [2, 5, 100, 31337, 255000, 7, 4]
    compare("large model imported", our_logits(expert, ids), their_logits(hf, ids))
    shutil.rmtree(hf)
    expert.unlink()


def others():
    """What is no XGLM."""
    hf = folder("gpt2")
    GPT2Config().save_pretrained(hf)
    result = subprocess.run([XELM, "import", "--hf", hf, "--out", CACHE / "gpt2.gguf"], capture_output=True)
    error = result.stderr.decode().strip()
    check("gpt2 is refused", result.returncode == 1 and "gpt2" in error and "\n" not in error, error)


def main():
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    others()
    relu()
    if "XELM_ORACLE" in os.environ:
        oracle(pathlib.Path(os.environ["XELM_ORACLE"]))
    else:
        print("skipped: the model whose logits were written down (XELM_ORACLE names no folder)")
    large()
    print(f"{len(failed)} checks failed" if failed else "all checks hold")
    sys.exit(bool(failed))


main()
