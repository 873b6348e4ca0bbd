"""What the scripts beside this file read of a set by themselves: GGUF files, and the router, in double precision."""

import math
import struct
import unicodedata

import numpy as np


def gguf(path):
    """Metadata and tensors of a GGUF file."""
    data = path.read_bytes()
    formats = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    at, metadata, tensors = 8, {}, {}

    def take(fmt):
        nonlocal at
        values = struct.unpack_from("<" + fmt, data, at)
        at += struct.calcsize("<" + fmt)
        return values if len(values) > 1 else values[0]

    def string():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n:at].decode()

    def value(kind):
        nonlocal at
        if kind == 8:
            return string()
        if kind != 9:
            return take(formats[kind])
        of, n = take("IQ")
        if of == 8:
            return [string() for _ in range(n)]
        values = np.frombuffer(data, "<" + formats[of].replace("?", "b"), n, at)
        at += values.nbytes
        return values

    n_tensors, n_kv = take("QQ")
    for _ in range(n_kv):
        key = string()
        metadata[key] = value(take("I"))
    infos = []
    for _ in range(n_tensors):
        name = string()
        dims = [take("Q") for _ in range(take("I"))]
        infos.append((name, dims, *take("IQ")))
    alignment = metadata.get("general.alignment", 32)
    start = -(-at // alignment) * alignment
    numbers = {0: "<f4", 24: "<i1", 26: "<i4"}
    for name, dims, kind, offset in infos:
        if kind in numbers:
            flat = np.frombuffer(data, numbers[kind], math.prod(dims), start + offset)
            tensors[name] = flat.reshape(dims[::-1])
    return metadata, tensors


def terms_of(units):
    """Every key of a double array and its value."""
    units = units.view(np.uint32)
    offset = lambda unit: (unit >> 10) << ((unit & 0x200) >> 6)
    found, todo = {}, [(0, b"")]
    while todo:
        index, key = todo.pop()
        unit = int(units[index])
        if unit & 0x100:
            found[key.decode()] = int(units[index ^ offset(unit)]) & 0x7fffffff
        for label in range(1, 256):
            child = index ^ offset(unit) ^ label
            if child < len(units) and int(units[child]) & 0x800000ff == label:
                todo.append((child, key + bytes([label])))
    return found


BLOCKS = [(0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x30FF), (0x31F0, 0x31FF),
          (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0xF900, 0xFAFF),
          (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F), (0x20000, 0x3FFFF)]


def words(text):
    """The words of the rule `unicode`, docs/formats.md §5.1."""
    kind = lambda c: unicodedata.category(c)[0]
    lone = lambda c: any(a <= ord(c) <= b for a, b in BLOCKS) and kind(c) in "LNM" and not c.isdigit()
    out, word, before = [], "", None
    for c in text + " ":
        c = c.lower()[0].replace("ς", "σ")
        if not lone(c) and (kind(c) in "LN" or c == "_" or (kind(c) == "M" and word)):
            word += c
            before = None
            continue
        if len(word) > 1 and not word[0].isdigit():
            out.append(word)
        word = ""
        if lone(c):
            out += [c] if before is None else [c, before + c]
            before = c
        else:
            before = None
    return out


class Router:
    """The router of a set's metadata and tensors."""

    def __init__(self, metadata, tensors):
        assert metadata["xelm.router.rule"] == "unicode"
        self.ids = terms_of(tensors["router.terms"].reshape(-1))
        self.projection = tensors["router.projection"].astype(np.float64)
        if "router.projection_scale" in tensors:
            scale = tensors["router.projection_scale"].astype(np.float64)
            self.projection = self.projection * scale[:, None]
        self.idf = tensors["router.idf"].astype(np.float64)
        self.centroids = tensors["router.centroids"].astype(np.float64)

    def weights(self, text, top_m, temperature):
        """Expert → weight of the `top_m` largest, which sum to 1."""
        s = np.zeros(self.projection.shape[1])
        for word in words(text):
            if word in self.ids:
                s += self.idf[self.ids[word]] * self.projection[self.ids[word]]
        norm = np.linalg.norm(s)
        alpha = np.full(len(self.centroids), 1 / len(self.centroids))
        if norm > 0:
            energy = ((s / norm - self.centroids) ** 2).sum(1)
            alpha = np.exp(-(energy - energy.min()) / temperature)
        keep = sorted(range(len(alpha)), key=lambda e: (-alpha[e], e))[:top_m]
        return {e: alpha[e] / sum(alpha[k] for k in keep) for e in keep}
