"""Every recipe beside llama.cpp's: see quality.sh.

usage: quality.py XELM LLAMA_QUANTIZE EXPERT CORPUS OUT TYPES TOKENS DOCUMENTS
"""

import json
import math
import pathlib
import subprocess
import sys

XELM, LLAMA_QUANTIZE, EXPERT, CORPUS = sys.argv[1:5]
OUT, TYPES = pathlib.Path(sys.argv[5]), sys.argv[6].split()
TOKENS, DOCUMENTS = sys.argv[7:9]
BEST = "xq4"
ROUNDING = 1e-9


def run(*command):
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def ours(recipe, imatrix):
    path = OUT / f"xelm-{recipe}.gguf"
    run(XELM, "quantize", "--expert", EXPERT, "--type", recipe, "--imatrix", imatrix, "--out", path)
    return path


def theirs(recipe, imatrix):
    path = OUT / f"llama-{recipe}.gguf"
    # Beside our best stands its Q4_K in every matrix, the embedding too: as many bits.
    how = ["--pure"] if recipe == BEST else []
    name = "Q4_K_S" if recipe == BEST else recipe.upper()
    run(LLAMA_QUANTIZE, *how, "--imatrix", imatrix, EXPERT, path, name)
    return path


def pooled(lines):
    """All languages, by token: bits, perplexity before and after, divergence, agreement."""
    tokens = sum(line["tokens"] for line in lines)

    def mean(of):
        return sum(of(line) * line["tokens"] for line in lines) / tokens

    return {
        "language": "all",
        "tokens": tokens,
        "bits_per_weight": lines[0]["bits_per_weight"],
        "ppl_before": math.exp(mean(lambda line: math.log(line["ppl_before"]))),
        "ppl": math.exp(mean(lambda line: math.log(line["ppl"]))),
        "kld": mean(lambda line: line["kld"]),
        "top1": mean(lambda line: line["top1"]),
    }


def main():
    plain, products = OUT / "imatrix.gguf", OUT / "products.gguf"
    collect = [XELM, "imatrix", "--expert", EXPERT, "--corpus", CORPUS, "--tokens", TOKENS]
    run(*collect, "--out", plain)
    run(*collect, "--products", "--out", products)
    files = {}
    for recipe in TYPES:
        files["xelm", recipe] = ours(recipe, plain)
        files["llama.cpp", recipe] = theirs(recipe, plain)
    files["xelm", BEST] = ours(BEST, products)
    files["llama.cpp", BEST] = theirs(BEST, plain)
    experts = [argument for path in files.values() for argument in ("--expert", path)]
    lines = json.loads(run(XELM, "eval", "quality", *experts, "--against", EXPERT, "--corpus", CORPUS,
                           "--max-documents", DOCUMENTS, "--json"))
    table = {key: [line for line in lines if line["expert"] == str(path)] for key, path in files.items()}
    print("\t".join(["recipe", "program", "language", "tokens", "bits", "ppl_before", "ppl", "more_%", "kld", "top1_%"]))
    failures = []
    for (program, recipe), of in table.items():
        for line in [*of, pooled(of)]:
            more = 100 * (line["ppl"] / line["ppl_before"] - 1)
            name = "q4_k, pure" if (program, recipe) == ("llama.cpp", BEST) else recipe
            print("\t".join([name, program, line["language"], str(line["tokens"]), f"{line['bits_per_weight']:.4f}",
                             f"{line['ppl_before']:.4f}", f"{line['ppl']:.4f}", f"{more:.3f}", f"{line['kld']:.6f}",
                             f"{100 * line['top1']:.2f}"]), flush=True)
            if (program, recipe) == ("xelm", BEST) and (more > 1 or line["bits_per_weight"] > 4.6):
                failures.append(f"{BEST} in {line['language']}: {more:.3f} % at {line['bits_per_weight']:.4f} bits")
    for recipe in [*TYPES, BEST]:
        a, b = pooled(table["xelm", recipe]), pooled(table["llama.cpp", recipe])
        for measure in ["ppl", "kld"]:
            if a[measure] > b[measure] * (1 + ROUNDING):
                failures.append(f"{recipe}: {measure} {a[measure]:.6f}, llama.cpp's {b[measure]:.6f}")
    for failure in failures:
        print(f"falls short: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
