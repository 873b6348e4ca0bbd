"""The checks of tests/gpu.sh on a machine with a card.

    gpu.py PROGRAMS OUT
"""

import datetime
import glob
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

STEPS = 200
MODEL = ["--n-layer", "4", "--n-embd", "128", "--n-head", "4", "--n-ctx", "128", "--batch", "32"]
PRETRAIN = ["--steps", str(STEPS), "--lr", "2e-3", "--save-every", "20", *MODEL]
# Nats between the last 20 losses of f32 on the CPU and bf16 on the card, in the mean.
LOSS_BOUND = 0.02
# Share of the memory's rate at which decoding reads weights.
DECODE_BOUND = 0.6
# Layers, width, vocabulary, positions of XGLM-564M.
SHAPE = [24, 1024, 256008, 2048]


class Table:
    """What was found: check, figure, bound, verdict."""

    def __init__(self):
        self.rows = []
        self.failed = False

    def add(self, check, figure, bound="", fine=True):
        self.rows.append((check, figure, bound, "ok" if fine else "FAILED"))
        self.failed |= not fine
        print("\t".join(self.rows[-1]), flush=True)

    def missing(self, check, what):
        self.rows.append((check, what, "", "not run"))
        print("\t".join(self.rows[-1]), flush=True)


def library_path():
    """Where cuBLASLt and NCCL may lie: the toolkit, and PyTorch's wheels."""
    folders = ["/usr/local/cuda/lib64", *glob.glob("/usr/local/cuda*/lib64")]
    if spec := importlib.util.find_spec("nvidia"):
        for root in spec.submodule_search_locations:
            folders += glob.glob(root + "/*/lib")
    return ":".join([*folders, os.environ.get("LD_LIBRARY_PATH", "")])


class Xelm:
    def __init__(self, programs):
        self.program = str(programs / "xelm-under-test")
        self.check = str(programs / "xelm-gpu-check")
        self.make = str(programs / "xelm-decode-speed")
        self.environment = dict(os.environ, LD_LIBRARY_PATH=library_path())

    def __call__(self, *args):
        command = [self.program, *map(str, args)]
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if result.returncode != 0:
            sys.exit(f"{' '.join(command)}:\n{result.stderr}")
        return result.stdout

    def lines(self, *args):
        result = subprocess.run(
            [self.check, *args], env=self.environment, capture_output=True, text=True
        )
        if result.stderr:
            print(result.stderr, file=sys.stderr)
        return result.returncode, [line.split("\t") for line in result.stdout.splitlines()]

    def bench(self, *args):
        fixed = ["--device", "cuda", "--temperature", "0", "--prompt", "512", "--generate", "128", "--json"]
        return json.loads(self("bench", *args, *fixed))

    def killed(self, run, steps, *args):
        """Starts a command and kills it once its log has `steps` lines."""
        process = subprocess.Popen(
            [self.program, *map(str, args)], env=self.environment, stderr=subprocess.DEVNULL
        )
        log = run / "seed/log.jsonl"
        while process.poll() is None:
            if log.exists() and len(log.read_text().splitlines()) >= steps:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        process.wait()


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "seed/log.jsonl").read_text().splitlines()]


def checkpoint(run):
    return (run / "seed/checkpoint.gguf").read_bytes()


def training(xelm, folder, table):
    """Loss curves, reruns, resuming, changing the device."""
    begun = folder / "begun"
    corpus = pathlib.Path("xelm-train/corpus")
    xelm("tokenizer", "train", "--corpus", corpus, "--run", begun, "--vocab-size", 2048, "--character-coverage", 0.998)

    def run(name, like=None):
        shutil.copytree(begun, folder / name)
        if like and (like / "seed/plans.json").exists():
            # The algorithms of another run: those that are timed now may be others.
            (folder / name / "seed").mkdir()
            shutil.copy(like / "seed/plans.json", folder / name / "seed")
        return folder / name

    cpu, card, moved = map(run, ["cpu", "card", "moved"])
    xelm("pretrain", "--run", cpu, *PRETRAIN)
    xelm("pretrain", "--run", card, *PRETRAIN, "--device", "cuda")
    off = [abs(a - b) for a, b in zip(losses(cpu)[-20:], losses(card)[-20:])]
    mean = sum(off) / len(off)
    figure = f"{mean:.4f} (largest {max(off):.4f})"
    table.add("loss after 200 steps, bf16 on the card - f32 on the CPU", figure, f"<= {LOSS_BOUND}", mean <= LOSS_BOUND)
    again, killed = run("again", card), run("killed", card)
    xelm("pretrain", "--run", again, *PRETRAIN, "--device", "cuda")
    same = checkpoint(card) == checkpoint(again)
    table.add("a second run by the same algorithms has the same bits", str(same), "True", same)
    xelm.killed(killed, 90, "pretrain", "--run", killed, *PRETRAIN, "--device", "cuda")
    n = len(losses(killed))
    xelm("pretrain", "--run", killed, *PRETRAIN, "--device", "cuda")
    same = checkpoint(card) == checkpoint(killed)
    table.add(f"killed at step {n} and resumed: the same bits", str(same), "True", same)
    xelm.killed(moved, 60, "pretrain", "--run", moved, *PRETRAIN, "--device", "cuda")
    xelm.killed(moved, 120, "pretrain", "--run", moved, *PRETRAIN)
    xelm("pretrain", "--run", moved, *PRETRAIN, "--device", "cuda")
    off = [abs(a - b) for a, b in zip(losses(cpu)[-20:], losses(moved)[-20:])]
    mean = sum(off) / len(off)
    table.add("card, CPU, card in one job: loss - that of the CPU", f"{mean:.4f}", f"<= {LOSS_BOUND}", mean <= LOSS_BOUND)
    f32 = run("f32")
    xelm("pretrain", "--run", f32, *PRETRAIN, "--device", "cuda", "--precision", "f32")
    off = [abs(a - b) for a, b in zip(losses(cpu)[-20:], losses(f32)[-20:])]
    mean = sum(off) / len(off)
    table.add("the same, f32 on the card", f"{mean:.4f}", f"<= {LOSS_BOUND}", mean <= LOSS_BOUND)


def runtime(xelm, folder, table):
    """The runtime on the card: logits against the CPU's, decoding and prefill beside what memory allows."""
    status, rows = xelm.lines("runtime", str(folder))
    for model, best, worst, bounds, same, allocations in (r for r in rows[1:] if len(r) == 6):
        figure = f"{best}, {worst}; same bits in other passes: {same}, allocations: {allocations}"
        of_best, of_worst = map(float, bounds.split(", "))
        fine = float(best) <= of_best and float(worst) <= of_worst and same == "true" and allocations == "0"
        table.add(f"logits, {model}", figure, f"<= {bounds}; true, 0", fine)
    table.add("all models", f"exit code {status}", "0", status == 0)

    _, [[memory]] = xelm.lines("memory")
    table.add("memory is set to zero at", f"{memory} GB/s")
    experts = []
    for dtype in ["q8_0", "q4_0"]:
        name = f"{dtype}.gguf"
        subprocess.run([xelm.make, "make", folder / name, *map(str, SHAPE), dtype], check=True)
        experts.append(name)
        bench = xelm.bench("--expert", folder / name)
        rate, prefill = bench["decode"]["tokens_per_s"], bench["prefill"]["tokens_per_s"]
        share = bench["decode"]["gb_per_s"] / float(memory)
        figure = f"{rate:.0f} tokens/s, {bench['decode']['gb_per_s']:.0f} GB/s = {share:.0%} of memory's rate"
        table.add(f"decode, 564M {dtype}", figure, f">= {DECODE_BOUND:.0%}", share >= DECODE_BOUND)
        table.add(f"prefill, 564M {dtype}", f"{prefill:.0f} tokens/s, {bench['card_bytes'] >> 20} MiB of the card")
    subprocess.run([xelm.make, "set", folder, *experts], check=True)
    one, two = (xelm.bench("--set", folder, "--ensemble", m)["decode"]["tokens_per_s"] for m in [1, 2])
    table.add("decode, one of two experts, both side by side", f"{one:.0f} and {two:.0f} tokens/s")


def sanitizer(xelm, table, *checks):
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    for name in ["memcheck", "racecheck"]:
        if not tool:
            table.missing(f"compute-sanitizer {name}, {checks[0]}", "compute-sanitizer is not installed")
            continue
        command = [tool, "--tool", name, "--error-exitcode", "9", xelm.check, *checks]
        result = subprocess.run(command, env=xelm.environment, capture_output=True, text=True)
        said = [line for line in result.stdout.splitlines() if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line]
        table.add(f"compute-sanitizer {name}, {checks[0]}", " ".join(said) or "no summary", "0 errors", result.returncode != 9 and bool(said))


def trainer(xelm, devices, table):
    """Operations, training, its speed."""
    status, rows = xelm.lines("ops")
    for operation, precision, products, cases, worst, bound in (r for r in rows[1:] if len(r) == 6):
        table.add(f"{operation}, {precision}, {products} products, {cases} cases", worst, f"<= {bound}", float(worst) <= float(bound))
    table.add("all operations", f"exit code {status}", "0", status == 0)

    with tempfile.TemporaryDirectory() as folder:
        training(xelm, pathlib.Path(folder), table)
    sanitizer(xelm, table, "ops")

    rates, others = {}, {}
    if devices["cublaslt"]:
        status, rows = xelm.lines("speed")
        for model, way, rate, tflops, gemm, share in (r for r in rows[1:] if len(r) == 6):
            table.add(f"training {model}, {way}", f"{rate} tokens/s, {tflops} of {gemm} TFLOP/s = {share}")
            if way == "cuBLASLt":
                rates[model] = float(rate)
            others[model, way] = float(rate)
        for model, rate in rates.items():
            gains = [rate / others[model, f"cuBLASLt {way}"] for way in ["untimed", "without graphs"]]
            table.add(f"training {model}: what timed algorithms and graphs gain", f"x {gains[0]:.2f}, x {gains[1]:.2f}")
        table.add("training speed", f"exit code {status}", "0", status == 0)
    else:
        table.missing("training speed", "cuBLASLt is not installed")
    if importlib.util.find_spec("torch"):
        for model, rate in rates.items():
            result = subprocess.run([sys.executable, "tests/gpu_torch.py", model], capture_output=True, text=True)
            if result.returncode != 0:
                table.missing(f"PyTorch {model}", result.stderr.strip().splitlines()[-1])
                continue
            torch = float(result.stdout.split()[-1])
            table.add(f"PyTorch {model}, compiled, bf16", f"{torch:.0f} tokens/s; ours / PyTorch = {rate / torch:.2f}")
    else:
        table.missing("PyTorch", "not installed")


def main():
    programs, out = map(pathlib.Path, sys.argv[1:])
    xelm, table = Xelm(programs), Table()
    devices = json.loads(xelm("devices", "--json"))
    if not devices["cuda"]:
        sys.exit(devices["missing"] or "the driver shows no card")
    card = devices["cuda"][0]
    found = [f"{name} {'found' if devices[key] else 'not found'}" for name, key in [("cuBLASLt", "cublaslt"), ("NCCL", "nccl")]]
    table.add("card", f"{len(devices['cuda'])} x {card['name']}, {', '.join(found)}")

    only = os.environ.get("XELM_GPU", "")
    if only != "runtime":
        trainer(xelm, devices, table)
    if only != "train":
        with tempfile.TemporaryDirectory() as folder:
            runtime(xelm, pathlib.Path(folder), table)
        with tempfile.TemporaryDirectory() as folder:
            # Both formats of activations, and the awkward width.
            for word in ["q8_0 96 F16", "f32 20 F32"]:
                sanitizer(xelm, table, "runtime", folder, word)

    name = card["name"].replace("NVIDIA ", "").replace(" ", "-")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{datetime.date.today()}-{name}.tsv"
    path.write_text("\n".join("\t".join(row) for row in [("check", "figure", "bound", "verdict"), *table.rows]) + "\n")
    print(path)
    sys.exit(table.failed)


if __name__ == "__main__":
    main()
