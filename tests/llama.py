"""The few functions of llama.cpp that the scripts beside this file need, from the wheel xllamacpp."""

import ctypes as c
import pathlib
import struct
import sys

import xllamacpp


class Opaque(c.Structure):
    """A parameter struct passed by value: larger than any version of the real one, which is read from
    and written to its beginning."""

    _fields_ = [("bytes", c.c_uint8 * 1024)]

    def i32(self, offset):
        return struct.unpack_from("<i", self.bytes, offset)[0]

    def set_i32(self, offset, value):
        struct.pack_into("<i", self.bytes, offset, value)


class Batch(c.Structure):
    _fields_ = [
        ("n_tokens", c.c_int32), ("token", c.c_void_p), ("embd", c.c_void_p), ("pos", c.c_void_p),
        ("n_seq_id", c.c_void_p), ("seq_id", c.c_void_p), ("logits", c.c_void_p),
    ]


# Offsets in llama_context_params of this version, checked against the defaults below.
N_CTX, N_BATCH, N_UBATCH, FLASH_ATTN, TYPE_K, TYPE_V = 0, 4, 8, 48, 104, 108
F32, F16 = 0, 1

lib = c.CDLL(str(next(pathlib.Path(xllamacpp.__file__).parent.glob("*.so"))))
IDS = c.POINTER(c.c_int32)
for name, result, arguments in [
    ("llama_model_default_params", Opaque, []),
    ("llama_model_load_from_file", c.c_void_p, [c.c_char_p, Opaque]),
    ("llama_model_get_vocab", c.c_void_p, [c.c_void_p]),
    ("llama_model_free", None, [c.c_void_p]),
    ("llama_vocab_n_tokens", c.c_int32, [c.c_void_p]),
    ("llama_tokenize", c.c_int32,
     [c.c_void_p, c.c_char_p, c.c_int32, IDS, c.c_int32, c.c_bool, c.c_bool]),
    ("llama_context_default_params", Opaque, []),
    ("llama_init_from_model", c.c_void_p, [c.c_void_p, Opaque]),
    ("llama_free", None, [c.c_void_p]),
    ("llama_set_n_threads", None, [c.c_void_p, c.c_int32, c.c_int32]),
    ("llama_get_memory", c.c_void_p, [c.c_void_p]),
    ("llama_memory_clear", None, [c.c_void_p, c.c_bool]),
    ("llama_batch_init", Batch, [c.c_int32, c.c_int32, c.c_int32]),
    ("llama_batch_free", None, [Batch]),
    ("llama_batch_get_one", Batch, [IDS, c.c_int32]),
    ("llama_decode", c.c_int32, [c.c_void_p, Batch]),
    ("llama_get_logits_ith", c.POINTER(c.c_float), [c.c_void_p, c.c_int32]),
]:
    function = getattr(lib, name)
    function.restype, function.argtypes = result, arguments
quiet = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda level, text, _: None)
lib.llama_log_set(quiet, None)
lib.llama_backend_init()


class Llama:
    """A model."""

    def __init__(self, path):
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if not self.model:
            sys.exit(f"llama.cpp does not load {path}")
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.n_vocab = lib.llama_vocab_n_tokens(self.vocab)

    def free(self):
        lib.llama_model_free(self.model)

    def tokenize(self, text):
        data = text.encode()
        ids = (c.c_int32 * (len(data) * 4 + 16))()
        n = lib.llama_tokenize(self.vocab, data, len(data), ids, len(ids), True, False)
        return list(ids[:n])


class Context:
    """`n_ctx` positions of a model; keys and values in single precision if `exact`."""

    def __init__(self, llama, n_ctx, exact=False, n_threads=None):
        params = lib.llama_context_default_params()
        defaults = [params.i32(o) for o in (N_BATCH, N_UBATCH, TYPE_K, TYPE_V)]
        if defaults != [2048, 512, F16, F16]:
            sys.exit(f"this llama.cpp lays out its parameters otherwise: {defaults}")
        params.set_i32(N_CTX, n_ctx)
        if exact:
            for offset, value in [(TYPE_K, F32), (TYPE_V, F32), (FLASH_ATTN, 0)]:
                params.set_i32(offset, value)
        self.context = lib.llama_init_from_model(llama.model, params)
        if not self.context:
            sys.exit("llama.cpp makes no context")
        self.memory = lib.llama_get_memory(self.context)
        if n_threads:
            lib.llama_set_n_threads(self.context, n_threads, n_threads)

    def free(self):
        lib.llama_free(self.context)

    def clear(self):
        lib.llama_memory_clear(self.memory, False)

    def decode(self, batch):
        if lib.llama_decode(self.context, batch) != 0:
            sys.exit("llama_decode failed")

    def read(self, ids):
        """Reads the tokens of a ctypes array of int32."""
        self.decode(lib.llama_batch_get_one(ids, len(ids)))
