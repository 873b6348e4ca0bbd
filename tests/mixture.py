"""Recomputes a mixture of experts from a set's files and each expert's own logits: see mixture.sh.

usage: mixture.py XELM SET CACHE

Nothing of xelm's router or mixing is used: the tables are read, words found, weights and probabilities
computed here, in double precision.
"""

import json
import math
import pathlib
import subprocess
import sys

import numpy as np

from tables import Router, gguf

XELM, SET, CACHE = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
TEXT = "Am Morgen gehen wir in den Wald. 今日は天気がいいので、公園へ行きました。 Και το βράδυ το σπίτι. In the evening, 42 birds sang."
TOP_M, T = 2, 0.1


def main():
    metadata, tensors = gguf(SET / "set.gguf")
    router = Router(metadata, tensors)

    flags = ["--set", SET, "--ensemble", str(TOP_M), "--json", "--steps", "--text", TEXT]
    scored = json.loads(subprocess.run([XELM, "score", *flags], check=True, capture_output=True).stdout)
    tokens = [2] + [step["token"] for step in scored["steps"]][:-1]
    pieces = [""] + [step["piece"] for step in scored["steps"]][:-1]
    logits = []
    for file in metadata["xelm.set.files"]:
        out = CACHE / "logits.npy"
        flags = ["--expert", SET / file, "--tokens", ",".join(map(str, tokens)), "--out", out]
        subprocess.run([XELM, "logits", *flags], check=True)
        logits.append(np.load(out).astype(np.float64))

    worst_weight = worst_nll = total = 0.0
    for i, step in enumerate(scored["steps"]):
        text = "".join(pieces[:i + 1]).replace("<unk>", " \u2047 ").replace("\u2581", " ")
        alpha = router.weights(text, TOP_M, T)
        p = 0.0
        for e, a in alpha.items():
            row = logits[e][i]
            p += a * math.exp(row[step["token"]] - row.max() - math.log(np.exp(row - row.max()).sum()))
            theirs = step["experts"].get(metadata["xelm.set.ids"][e], 0.0)
            worst_weight = max(worst_weight, abs(theirs - a))
        worst_nll = max(worst_nll, abs(step["nll"] + math.log(p)))
        total -= math.log(p)
    print(f"{len(tokens)} positions, {len(router.ids)} terms, {len(router.centroids)} experts, the {TOP_M} best mixed")
    print(f"largest difference of a weight             {worst_weight:.1e}")
    print(f"largest difference of a log probability    {worst_nll:.1e}")
    print(f"sum of negative log likelihoods            {scored['nll_sum']:.5f}, here {total:.5f}")
    sys.exit(not (worst_weight < 1e-5 and worst_nll < 1e-5))


main()
