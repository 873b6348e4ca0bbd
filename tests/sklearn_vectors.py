"""Writes what scikit-learn computes of a corpus, for tests/tests/sklearn.rs to compare with.

    pip install scikit-learn zstandard
    python tests/sklearn_vectors.py > tests/fixtures/sklearn.json                   the bundled corpus
    XELM_CORPUS=DIR python tests/sklearn_vectors.py > vectors.json                  another one

With the second, `XELM_CORPUS=DIR XELM_SKLEARN=vectors.json cargo test -p xelm-tests --test sklearn` compares
on that corpus. The words of the adversarial strings need Python 3.11, whose Unicode the runtime's tables have.
"""

import gzip
import hashlib
import io
import json
import os
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np
import sklearn
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

# Documents of a language that are fitted to, and of which a vector is written.
N_FIT, N_WRITTEN = 60, 2
DIMS = 20
STOP_WORDS = ["the", "and", "und", "der", "el", "la", "και", "на", "и", "が"]

STRINGS = [
    "",
    " ",
    "a b c",
    "The quick_brown fox-jumps over_ __ _x x_ 12 1a a1 3rd ½x ²x x² ٣٤ ٣٤a a٣ Ⅻab Ⅳ",
    "हिन्दी भाषा में लिखा हुआ एक वाक्य",
    "தமிழ் ภาษาไทย ქართული ᏣᎳᎩ ꭰꭱ",
    "e\u0301te\u0301 été Ame\u0301lie na\u00efve nai\u0308ve",
    "İstanbul DİYARBAKIR İİ aİb Iı ıI",
    "ΟΔΟΣ ΟΔΟΣ. ΟΔΟΣ.Α ΟΔΟΣ'Α Σ ΣΣ ΑΣ ΣΑ ΑΣΑ Α.Σ. ΑΒΣ.Γ ΑΒΣ\u0301 ΑΒΣ\u0301Γ ΑΒΣ1 ΑΒΣ_ ΑΒΣ·Δ",
    "ΑΒΣʰ.ʰʰ:ʰΑ ΑΒΣʰ.ʰʰ ΑΒΣ\u00ad ΑΒΣ\u00adΑ ΑΒΣ\u200dΑ ςσΣ Άσμα ΆΣΜΑΣ",
    "中文文本，没有空格的句子。日本語のテキストです、カタカナ・ひらがな々〇 한국어 문장",
    "a\u00a0b ab\u00a0cd ef\u2003gh ij\u3000kl mn\u200bop qr\u2060st uv\ufeffwx",
    "soft\u00adhyphen zero\u200cwidth\u200djoiner don't l’été rock'n'roll",
    "ﬁn ﬂow ǅungla Ǆ ǆ ẞ STRASSE straße ŉ ǰ ΐ \U0001d400\U0001d401 𐐀𐐁 𞤀𞤁",
    "①② ⑩x 1⃣ ¼ x¼ 〇一二 ㆒㆓ ꠰ab ৴ab ௰ab",
    "😀ab cd😀ef ❤️gh ✓ij k\u20dd lm",
    "MixedCASE ÀÉÎÕÜ ÑANDÚ ŁÓDŹ ЁЖИК ЇЖАК ԱԲԳ ႠႡ ᲐᲑ Ꭰꭰ",
    "x" * 300 + " " + "я" * 299,
]


def documents(path: Path):
    name = path.name
    opened = open(path, "rb")
    if name.endswith(".zst"):
        import zstandard

        opened = zstandard.ZstdDecompressor().stream_reader(opened)
    elif name.endswith(".gz"):
        opened = gzip.open(opened)
    # Lines end at \n alone, as in the trainer.
    lines = io.TextIOWrapper(opened, encoding="utf-8-sig", newline="\n")
    if not name.endswith(".txt"):
        for line in lines:
            if line.strip():
                yield json.loads(line)["text"]
        return
    part = []
    for line in [*(line.rstrip("\r\n") for line in lines), ""]:
        if line.strip(" \t\n\r\x0c"):
            part.append(line)
        elif part:
            yield "\n".join(part)
            part = []


class Vectorizer(TfidfVectorizer):
    """Words that begin with a digit count as stop words, as in the X-ELM paper's code."""

    def build_tokenizer(self):
        tokenize = super().build_tokenizer()
        return lambda text: [word for word in tokenize(text) if not word[0].isdigit()]


def words(text: str) -> list[str]:
    found = re.findall(r"(?u)\b\w\w+\b", text.lower())
    return [word for word in found if not word[0].isdigit()]


def main() -> None:
    if unicodedata.unidata_version != "14.0.0":
        sys.exit(f"this Python has Unicode {unicodedata.unidata_version}; 3.11 has 14.0.0")
    bundled = Path(__file__).parent.parent / "xelm-train" / "corpus"
    folder = Path(os.environ.get("XELM_CORPUS", bundled))
    languages = sorted(
        {path.name.split(".")[0]: path for path in folder.glob("*.train.*")}.items()
    )[:8]
    texts, written = [], []
    for language, path in languages:
        for index, text in enumerate(documents(path)):
            if index == N_FIT:
                break
            if index < N_WRITTEN:
                written.append((language, index, len(texts)))
            texts.append(text)
    vectorizer = Vectorizer(stop_words=STOP_WORDS)
    matrix = vectorizer.fit_transform(texts)
    names = vectorizer.get_feature_names_out()
    exact = np.sqrt(np.linalg.eigvalsh((matrix @ matrix.T).toarray())[::-1][:DIMS])
    # The same method from another random start, and how near it comes.
    svd = TruncatedSVD(DIMS, n_iter=5, n_oversamples=10, random_state=0).fit(matrix)
    vectors = []
    for language, index, row in written:
        row = matrix[row]
        terms = {names[i]: float("%.9g" % x) for i, x in zip(row.indices, row.data)}
        vectors.append({"language": language, "index": index, "terms": dict(sorted(terms.items()))})
    result = {
        "made_with": f"scikit-learn {sklearn.__version__}, Python {sys.version.split()[0]}",
        "words": [{"text": text, "words": words(text)} for text in STRINGS],
        "languages": [language for language, _ in languages],
        "documents_per_language": N_FIT,
        "stop_words": STOP_WORDS,
        "n_documents": len(texts),
        "n_terms": len(names),
        "terms_sha256": hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest(),
        "singular_values": [float("%.9g" % x) for x in exact],
        "share_found": float("%.4g" % (svd.singular_values_ / exact).min()),
        "vectors": vectors,
    }
    json.dump(result, sys.stdout, ensure_ascii=False, indent=0, separators=(",", ":"))
    print()


main()
