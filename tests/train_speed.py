"""Training speed beside PyTorch's: see train_speed.sh.

usage: train_speed.py PROGRAM CACHE ROUNDS THREADS PRELOAD TSV
       train_speed.py torch CACHE THREADS PRECISION
"""

import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

# 25 million parameters; B sequences of T tokens.
V, C, L, H, F, B, T = 12032, 512, 6, 8, 2048, 8, 256
STEPS, WARM_UP = 20, 3
# Of two f32 loss curves.
TOLERANCE = 1e-3


def learning_rate(step):
    """Of step 0 and later; the program in Rust has the same."""
    return 1e-3 * min(1.0, (step + 1) / 10)


def write_inputs(cache):
    """A model with random weights as transformers saves it, and batches in which there is something to learn:
    [STEPS, B, T + 1] ids, u32."""
    import numpy
    import torch
    from transformers import XGLMConfig, XGLMForCausalLM
    from xglm import write_vocabulary

    torch.manual_seed(1)
    config = XGLMConfig(vocab_size=V, max_position_embeddings=T, d_model=C, ffn_dim=F, num_layers=L, attention_heads=H)
    model = XGLMForCausalLM(config)
    model.save_pretrained(cache / "model")
    write_vocabulary(cache / "model/sentencepiece.bpe.model", V)
    rng = numpy.random.default_rng(1)
    ids = numpy.empty((STEPS, B, T + 1), numpy.uint32)
    ids[..., 0] = rng.integers(0, V, (STEPS, B))
    for t in range(T):
        ids[..., t + 1] = (ids[..., t].astype(numpy.int64) * 31 + rng.integers(0, 8, (STEPS, B))) % V
    ids.tofile(cache / "batches.u32")
    return sum(p.numel() for p in model.parameters())


def run_torch(cache, threads, precision):
    """One run in PyTorch as fast as it goes: Q, K and V in one product, its own attention, fused AdamW."""
    import numpy
    import torch
    from safetensors.torch import load_file
    from torch.nn import functional

    torch.set_num_threads(threads)
    weights = load_file(cache / "model/model.safetensors")
    take = lambda name: weights[f"model.{name}"]
    layers = []
    for i in range(L):
        at = lambda name: take(f"layers.{i}.{name}")
        qkv = [torch.cat([at(f"self_attn.{p}_proj.{kind}") for p in "qkv"]) for kind in ["weight", "bias"]]
        pairs = [[at(f"{name}.{kind}") for kind in ["weight", "bias"]]
                 for name in ["self_attn_layer_norm", "self_attn.out_proj", "final_layer_norm", "fc1", "fc2"]]
        layers.append([qkv, *pairs])
    embedding, last = take("embed_tokens.weight"), [take("layer_norm.weight"), take("layer_norm.bias")]
    parameters = [embedding, *last, *(tensor for layer in layers for pair in layer for tensor in pair)]
    for tensor in parameters:
        tensor.requires_grad_()
    half = C // 2
    frequencies = torch.exp(torch.arange(half).float() * -(numpy.log(10000) / (half - 1)))
    angles = (torch.arange(T).float() + 2)[:, None] * frequencies
    positions = torch.cat([angles.sin(), angles.cos()], 1)

    def forward(inputs):
        h = C ** 0.5 * functional.embedding(inputs, embedding) + positions
        for qkv, attn_norm, out, ffn_norm, up, down in layers:
            x = functional.layer_norm(h, (C,), *attn_norm)
            q, k, v = functional.linear(x, *qkv).view(B, T, 3, H, C // H).permute(2, 0, 3, 1, 4)
            x = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + functional.linear(x.transpose(1, 2).reshape(B, T, C), *out)
            x = functional.layer_norm(h, (C,), *ffn_norm)
            h = h + functional.linear(functional.gelu(functional.linear(x, *up)), *down)
        return functional.linear(functional.layer_norm(h, (C,), *last), embedding)

    adam = torch.optim.AdamW(parameters, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True)
    ids = torch.from_numpy(numpy.fromfile(cache / "batches.u32", numpy.uint32).astype(numpy.int64))
    losses, seconds = [], []
    for step, batch in enumerate(ids.view(STEPS, B, T + 1)):
        began = time.perf_counter()
        adam.param_groups[0]["lr"] = learning_rate(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = forward(batch[:, :-1])
            loss = functional.cross_entropy(logits.view(-1, V), batch[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        adam.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"losses": losses, "seconds": seconds}))


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} CPUs"


def main():
    program, cache = sys.argv[1], pathlib.Path(sys.argv[2])
    rounds, threads = int(sys.argv[3]), int(sys.argv[4])
    preload, tsv = sys.argv[5:7]
    n_params = write_inputs(cache)
    torch = [sys.executable, __file__, "torch", cache, threads]
    xelm = [program, threads, cache / "model", cache / "batches.u32"]
    arms = {
        "xelm f32": (xelm, {}),
        "torch f32": ([*torch, "f32"], {}),
    }
    # Without instructions for it, bf16 is emulated, and slower than f32 by far.
    if "avx512_bf16" in pathlib.Path("/proc/cpuinfo").read_text():
        arms["xelm bf16"] = ([*xelm, "bf16"], {})
        arms["torch bf16 autocast"] = ([*torch, "bf16"], {})
    else:
        print("skipped: bf16 (the processor has no instructions for it)")
    if preload:
        arms["torch f32, MKL with AVX-512"] = ([*torch, "f32"], {"LD_PRELOAD": preload})
    rates = {name: [] for name in arms}
    losses = {}
    for _ in range(rounds):
        for name, (command, more) in arms.items():
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **more}
            out = subprocess.run(list(map(str, command)), env=environment, check=True, capture_output=True).stdout
            result = json.loads(out.decode().splitlines()[-1])
            losses[name] = result["losses"]
            rates[name].append(B * T / statistics.median(result["seconds"][WARM_UP:]))
    command = f"ROUNDS={rounds} THREADS={threads} tests/train_speed.sh"
    print(f"{n_params / 1e6:.1f}M parameters, B {B}, T {T}, {threads} threads; {machine()}")
    print(f"{datetime.date.today()}, load {os.getloadavg()[0]:.1f}; {command}")
    ours = rates["xelm f32"]
    rows = [["arm", "tokens_per_s", "xelm_is_times_as_fast", "lowest", "highest", "loss_difference"]]
    worst = 0.0
    for name, theirs in rates.items():
        # Neighbours in time are compared.
        ratios = [a / b for a, b in zip(ours, theirs)]
        difference = max(abs(a - b) for a, b in zip(losses[name], losses["xelm f32"]))
        if "f32" in name:
            worst = max(worst, difference)
        numbers = [statistics.median(ratios), min(ratios), max(ratios)]
        rows.append([name, f"{statistics.median(theirs):.0f}", *(f"{x:.2f}" for x in numbers), f"{difference:.1e}"])
    for row in rows:
        print("\t".join(row))
    best = max((name for name in rates if name.startswith("torch f32")), key=lambda n: statistics.median(rates[n]))
    ratio = statistics.median(a / b for a, b in zip(ours, rates[best]))
    print(f"xelm is {ratio:.2f} times as fast as PyTorch's best f32 ({best})")
    if "xelm bf16" in rates:
        ratio = statistics.median(a / b for a, b in zip(rates["xelm bf16"], rates["torch bf16 autocast"]))
        print(f"in bf16, xelm is {ratio:.2f} times as fast as PyTorch")
    first, last = losses["xelm f32"][0], losses["xelm f32"][-1]
    print(f"loss {first:.4f} to {last:.4f} in {STEPS} steps; f32 curves differ by {worst:.1e} (at most {TOLERANCE:.0e})")
    if tsv:
        head = f"# {machine()}; {datetime.date.today()}; {command}\n"
        pathlib.Path(tsv).write_text(head + "".join("\t".join(row) + "\n" for row in rows))
    sys.exit(not worst <= TOLERANCE or not last < first)


if sys.argv[1] == "torch":
    run_torch(pathlib.Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
else:
    main()
