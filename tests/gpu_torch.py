"""Training speed of the same architecture in PyTorch: bf16 weights in products (autocast), f32 master weights,
scaled_dot_product_attention, fused AdamW, torch.compile. Prints tokens per second.

    gpu_torch.py 4M | 25M | 124M | 564M
"""

import math
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

# Layers, width, heads, vocabulary, tokens of a sequence, sequences of a micro-batch: as in gpu_check.rs.
SHAPES = {
    "4M": (4, 256, 4, 4096, 256, 16),
    "25M": (8, 512, 8, 4096, 1024, 32),
    "124M": (12, 768, 12, 50304, 1024, 16),
    "564M": (24, 1024, 16, 256008, 2048, 8),
}


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.attn_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attn_output = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        split = self.qkv(self.attn_norm(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_output(out.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.ffn_norm(x))))


class Xglm(nn.Module):
    def __init__(self, layers, width, heads, vocabulary, length):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.register_buffer("positions", torch.randn(length, width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.scale = math.sqrt(width)

    def forward(self, ids, targets):
        x = self.scale * self.embedding(ids) + self.positions
        for layer in self.layers:
            x = layer(x)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def main():
    layers, width, heads, vocabulary, length, batch = SHAPES[sys.argv[1]]
    torch.manual_seed(1)
    model = Xglm(layers, width, heads, vocabulary, length).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    compiled = torch.compile(model)
    ids = torch.randint(vocabulary, (batch, length), device="cuda")

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = compiled(ids, ids)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for _ in range(5):
        step()
    torch.cuda.synchronize()
    start, steps = time.time(), 0
    while steps < 5 or time.time() - start < 8:
        step()
        torch.cuda.synchronize()
        steps += 1
    print(steps * batch * length / (time.time() - start))


if __name__ == "__main__":
    main()
