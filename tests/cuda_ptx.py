"""Compiles the CUDA kernels to PTX with NVRTC, and assembles the PTX with ptxas, both from NVIDIA's wheels;
no GPU, driver or toolkit is needed.

    cuda_ptx.py WHEELS OUT

WHEELS is the folder `nvidia` of a site-packages folder; OUT receives f32.ptx, bf16.ptx and runtime.ptx. Prints a
table of registers, shared memory and spills (with stack frames) per kernel and architecture as tab-separated
values, and fails where a kernel has any of the last.
"""

import ctypes
import pathlib
import re
import subprocess
import sys
import tempfile

ARCHITECTURES = ["sm_80", "sm_86", "sm_89", "sm_90"]
# The oldest cards with bf16 matrix instructions; later ones run the same PTX.
COMPUTE = "compute_80"
# What is compiled: a name, the folder of its kernels, and options.
TRAIN, RUNTIME = "xelm-train/src/backend/cuda/kernels", "xelm-runtime/src/cuda/kernels"
SETS = [
    ("f32", TRAIN, ["--define-macro=XELM_F32"]),
    ("bf16", TRAIN, ["--define-macro=XELM_BF16"]),
    # A number must not depend on the kernel that makes it: what is fused differs between them.
    ("runtime", RUNTIME, ["--fmad=false"]),
]


class Nvrtc:
    def __init__(self, wheels):
        folder = wheels / "cuda_nvrtc/lib"
        # NVRTC looks for its builtins by name alone: they must be loaded before.
        for library in sorted(folder.glob("libnvrtc-builtins*")):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(folder / "libnvrtc.so.12"))
        self.headers = wheels / "cuda_runtime/include"

    def _text(self, program, what):
        size = ctypes.c_size_t()
        getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(self.library, f"nvrtcGet{what}")(program, text)
        return text.value.decode()

    def compile(self, source, more):
        program = ctypes.c_void_p()
        name = source.name.encode()
        self.library.nvrtcCreateProgram(
            ctypes.byref(program), source.read_bytes(), name, 0, None, None
        )
        options = [
            f"--gpu-architecture={COMPUTE}",
            "--std=c++17",
            f"--include-path={source.parent}",
            f"--include-path={self.headers}",
            *more,
        ]
        array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
        status = self.library.nvrtcCompileProgram(program, len(options), array)
        log = self._text(program, "ProgramLog")
        if log:
            print(log, file=sys.stderr)
        if status != 0:
            sys.exit(f"NVRTC does not compile {source} with {more}")
        return self._text(program, "PTX")


def assemble(ptxas, ptx, architecture):
    """Registers, shared memory and spilled bytes of each kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        command = [ptxas, f"-arch={architecture}", "-v", ptx, "-o", cubin.name]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"ptxas refuses {ptx} for {architecture}:\n{result.stderr}")
    kernels, name = {}, None
    for line in result.stderr.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name = found[1]
            kernels[name] = {"registers": 0, "shared": 0, "spills": 0}
        # Arrays that are not kept in registers lie in the stack frame.
        if found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", line):
            kernels[name]["spills"] = sum(map(int, found.groups()))
        if found := re.search(r"Used (\d+) registers", line):
            kernels[name]["registers"] = int(found[1])
        if found := re.search(r"(\d+) bytes smem", line):
            kernels[name]["shared"] = int(found[1])
    return kernels


def main():
    wheels, out = map(pathlib.Path, sys.argv[1:])
    nvrtc = Nvrtc(wheels)
    out.mkdir(parents=True, exist_ok=True)
    print("set", "kernel", *[f"{a} registers" for a in ARCHITECTURES], "shared", "spills", sep="\t")
    n_spills = 0
    for name_of_set, kernels, options in SETS:
        ptx = out / f"{name_of_set}.ptx"
        ptx.write_text(nvrtc.compile(pathlib.Path(kernels) / "kernels.cu", options))
        tables = [assemble(wheels / "cuda_nvcc/bin/ptxas", ptx, a) for a in ARCHITECTURES]
        for name in sorted(tables[0]):
            rows = [table[name] for table in tables]
            spills = sum(row["spills"] for row in rows)
            n_spills += spills > 0
            registers = [row["registers"] for row in rows]
            print(name_of_set, name, *registers, rows[0]["shared"], spills, sep="\t")
    if n_spills:
        sys.exit(f"{n_spills} kernels spill registers")


if __name__ == "__main__":
    main()
