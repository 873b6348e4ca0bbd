"""Recomputes the scores of in-context learning from a set's files and each expert's own logits: see icl.sh.

usage: icl.py XELM SET CACHE DATA

Prompts are put together and cut here, weights and probabilities computed here, in double precision; of xelm come
token ids and logits.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np

from tables import Router, gguf

XELM, SET, CACHE, DATA = sys.argv[1], *map(pathlib.Path, sys.argv[2:5])
TOP_M, T, N_EXAMPLES, TOLERANCE = 2, 0.1, 50, 1e-3
EOS = 2


def rows(path):
    """The rows of a table by line number."""
    lines = path.read_text().split("\n")
    header = lines[0].split("\t")
    return {i: dict(zip(header, line.split("\t"))) for i, line in enumerate(lines[1:], 2) if line}


def xnli(row):
    first, second = row["sentence1"].strip(), row["sentence2"].strip()
    gold = ["entailment", "neutral", "contradiction"].index(row["gold_label"])
    return f"{first}, right?", [f"{w}, {second}" for w in ("Yes", "Also", "No")], gold, f"{first} {second}"


def pawsx(row):
    first, second = row["sentence1"].strip(), row["sentence2"].strip()
    candidates = [f"{w}, {second}" for w in ("No", "Yes")]
    return f"{first}, right?", candidates, int(row["label"]), f"{first} {second}"


def story(row):
    text = " ".join(row[f"InputSentence{i}"].strip() for i in range(1, 5))
    endings = [row[f"RandomFifthSentenceQuiz{i}"].strip() for i in (1, 2)]
    return text, endings, int(row["AnswerRightEnding"]) - 1, text


class Expert:
    """An expert's file: what it makes of text, and its log probabilities."""

    def __init__(self, path):
        self.path = path
        metadata, _ = gguf(path)
        self.n_ctx = metadata["gpt2.context_length"]
        self.pieces = metadata["tokenizer.ggml.tokens"]

    def tokenize(self, text):
        command = [XELM, "tokenize", "--expert", self.path, "--json"]
        done = subprocess.run(command, input=text.replace("\n", " ").encode() + b"\n", capture_output=True, check=True)
        ids = json.loads(done.stdout)
        assert ids[0] == EOS
        return ids[1:]

    def decode(self, ids):
        return "".join(self.pieces[i] for i in ids).replace("<unk>", " \u2047 ").replace("\u2581", " ")

    def logits(self, tokens):
        out = CACHE / "logits.npy"
        command = [XELM, "logits", "--expert", self.path, "--tokens", ",".join(map(str, tokens)), "--out", out]
        subprocess.run(command, check=True)
        return np.load(out).astype(np.float64)


def log_softmax(rows):
    rows = rows - rows.max(1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(1, keepdims=True))


def score(experts, mix, prefix, ids):
    """Mean negative log likelihood of a candidate under experts with weights."""
    tokens = prefix + [EOS] + ids[:-1]
    each = [(alpha, expert.logits(tokens)[len(prefix):]) for expert, alpha in experts]
    if mix == "logits":
        mixed = log_softmax(sum(alpha * logits for alpha, logits in each))
    else:
        mixed = np.log(sum(alpha * np.exp(log_softmax(logits)) for alpha, logits in each))
    return -mixed[np.arange(len(ids)), ids].mean()


def check(name, task, make, data, languages, select, experts_of, mix="probabilities", shots=None):
    """Compares xelm's scores of a model with those computed here; returns the largest difference."""
    lines = CACHE / "examples.jsonl"
    command = [XELM, "eval", "icl", "--task", task, "--data", data, "--max-examples", N_EXAMPLES // len(languages)]
    command += ["--languages", ",".join(languages), "--examples", lines, "--mix", mix, *select]
    demonstration = ""
    if shots is not None:
        command += ["--shots", "1", "--runs", "1", "--demos", shots]
        (row,) = rows(shots).values()
        shared, candidates, gold, _ = make(row)
        demonstration = f"{shared} {candidates[gold]}\n"
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    table, worst, n, cut, wrong = rows(data), 0.0, 0, 0, 0
    for line in map(json.loads, lines.read_text().splitlines()):
        if line["model"] != name:
            continue
        shared, candidates, gold, words = make(table[line["line"]])
        experts = experts_of(words)
        one = experts[0][0]
        ids = [one.tokenize(text) for text in candidates]
        before = [EOS] + one.tokenize(demonstration) if demonstration else []
        shared = one.tokenize(shared)
        room = max(one.n_ctx - 1 - max(map(len, ids)), 0)
        is_cut = len(before) + len(shared) > room
        if is_cut:
            before = []
        kept = shared[max(len(shared) - room, 0):]
        scores = [score(experts, mix, before + [EOS] + kept, i[:one.n_ctx - 1]) for i in ids]
        worst = max(worst, np.abs(np.array(scores) - line["scores"]).max())
        wrong += line["gold"] != gold or line["cut"] != is_cut
        n, cut = n + 1, cut + is_cut
    how = f"{task}, {name}, {mix}" + (", one demonstration" if shots else "")
    print(f"{how:<60} {n} examples, {cut} cut: largest difference {worst:.1e}, {wrong} misread", flush=True)
    return worst if n >= N_EXAMPLES // len(languages) and not wrong else float("inf")


def main():
    metadata, tensors = gguf(SET / "set.gguf")
    router = Router(metadata, tensors)
    experts = [Expert(SET / file) for file in metadata["xelm.set.files"]]
    (english,) = [e for e, tag in zip(metadata["xelm.set.language.expert"], metadata["xelm.set.language.tag"]) if tag == "en"]
    nli = next(DATA.glob("xnli/xnli.dev.*.tsv"))
    paraphrases = next(DATA.glob("pawsx/*.dev_2k.tsv"))
    stories = next(DATA.glob("storycloze/*.tsv"))

    def mixture(words):
        one = experts[0]
        alpha = router.weights(one.decode(one.tokenize(words)), TOP_M, T)
        return [(experts[e], a) for e, a in alpha.items()]

    by_set = ["--set", SET, "--ensemble", TOP_M]
    of_english = ["--expert", SET / metadata["xelm.set.files"][english]]
    expert_id = metadata["xelm.set.ids"][english]
    alone = lambda words: [(experts[english], 1.0)]
    # One English example is the only demonstration there is.
    demos = CACHE / "demo.tsv"
    text = nli.read_text().split("\n")
    demos.write_text("\n".join([text[0], next(l for l in text if l.startswith("en\t"))]) + "\n")
    mixed = f"ensemble_{TOP_M}"
    worst = max([
        check(expert_id, "xnli", xnli, nli, ["en", "ko"], of_english, alone),
        check(mixed, "xnli", xnli, nli, ["en", "ko"], by_set, mixture),
        check(mixed, "xnli", xnli, nli, ["en", "ko"], by_set, mixture, mix="logits"),
        check(expert_id, "xnli", xnli, nli, ["en"], of_english, alone, shots=demos),
        check(mixed, "xnli", xnli, nli, ["en"], by_set, mixture, shots=demos),
        check(mixed, "xstorycloze", story, stories, ["en"], by_set, mixture),
        check(expert_id, "pawsx", pawsx, paraphrases, ["zh"], of_english, alone),
    ])
    print(f"largest difference of a score {worst:.1e}, allowed {TOLERANCE:.0e}")
    sys.exit(not worst < TOLERANCE)


main()
