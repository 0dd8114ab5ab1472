"""Makes `block.safetensors` and `block.json`: one block of the network by PyTorch, with gradients.

Run with the environment of `setup/torch.sh`; nothing at test time needs it:

    $TIDEGATE_CACHE/torch/bin/python libs/model/tests/model/block.py

Texts of several lengths stand one after the other without padding; every token sees all tokens of
its own text, and positions begin at 0 in each. All is computed in float64, from weights that f32
can hold, and then stored as f32: `input` and `output` `[tokens, d_model]`, each weight under its
name in the block, and under `gradient.NAME` what `sum(output * cotangent)` gives for it (for
`input` too). `load` is each expert's share of the assignments. The same for a selection bias of
zeros, under `even.`: `even.output`, `even.load`, `even.gradient.NAME`; it chooses other experts.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

SEED = 7
LENGTHS = [5, 1, 9]
ARCHITECTURE = {
    "d_model": 32,
    "layers": 1,
    "heads": 4,
    "kv_heads": 2,
    "experts": 4,
    "top_k": 2,
    "shared_experts": 1,
    "expert_width": 16,
    "rope_base": 10000.0,
    "norm_epsilon": 1e-5,
}
TINY = 1e-9


def made(a):
    """Input, cotangent and weights: random, and exactly what f32 holds."""
    draw = torch.Generator().manual_seed(SEED)

    def random(*shape, spread=1.0):
        return torch.randn(*shape, generator=draw, dtype=torch.float32).double() * spread

    d, width, experts = a["d_model"], a["expert_width"], a["experts"]
    narrow = a["kv_heads"] * d // a["heads"]
    tokens = sum(LENGTHS)
    into, out = d**-0.5, width**-0.5
    tensors = {
        "input": random(tokens, d),
        "cotangent": random(tokens, d),
        "attention_norm.gain": 1 + random(d, spread=0.2),
        "attention.query": random(d, d, spread=2 * into),
        "attention.key": random(d, narrow, spread=2 * into),
        "attention.value": random(d, narrow, spread=into),
        "attention.out": random(d, d, spread=into),
        "mixture_norm.gain": 1 + random(d, spread=0.2),
        "mixture.router": random(d, experts, spread=into),
        "mixture.bias": random(experts, spread=0.4),
        "mixture.gate": random(experts, d, width, spread=into),
        "mixture.up": random(experts, d, width, spread=into),
        "mixture.down": random(experts, width, d, spread=out),
        "mixture.shared.gate": random(d, width, spread=into),
        "mixture.shared.up": random(d, width, spread=into),
        "mixture.shared.down": random(width, d, spread=out),
    }
    return {name: tensor.float().double() for name, tensor in tensors.items()}


def rotate(x, a):
    """`x`: `[tokens, heads, head_width]`, of one text."""
    head_width = x.shape[-1]
    at = torch.arange(head_width // 2, dtype=torch.float64)
    angles = torch.arange(len(x))[:, None, None] * a["rope_base"] ** (-2 * at / head_width)
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attention(x, w, a):
    """`x`: `[tokens, d_model]`, of one text. Every formula is spelled out."""
    head_width, group = a["d_model"] // a["heads"], a["heads"] // a["kv_heads"]
    query, key, value = (
        (x @ w[f"attention.{part}"]).view(len(x), -1, head_width)
        for part in ("query", "key", "value")
    )
    query, key = rotate(query, a), rotate(key, a)
    seen = []
    for head in range(a["heads"]):
        of = head // group
        scores = query[:, head] @ key[:, of].T / head_width**0.5
        seen.append(scores.softmax(dim=1) @ value[:, of])
    return torch.cat(seen, dim=1) @ w["attention.out"]


def norm(x, gain, a):
    return x / (x.square().mean(dim=1, keepdim=True) + a["norm_epsilon"]).sqrt() * gain


def swiglu(x, gate, up, down):
    return (F.silu(x @ gate) * (x @ up)) @ down


def mixture(x, w, a):
    affinity = torch.sigmoid(x @ w["mixture.router"])
    score = affinity.detach() + w["mixture.bias"].detach()
    ranked = score.sort(dim=1, descending=True).values
    margin = (ranked[:, a["top_k"] - 1] - ranked[:, a["top_k"]]).min()
    assert margin > 1e-3, f"a choice that rounding could turn: {margin}"
    chosen = score >= ranked[:, [a["top_k"] - 1]]
    share = affinity * chosen
    share = share / (share.sum(dim=1, keepdim=True) + TINY)
    answer = swiglu(x, *(w[f"mixture.shared.{part}"] for part in ("gate", "up", "down")))
    for expert in range(a["experts"]):
        parts = (w[f"mixture.{part}"][expert] for part in ("gate", "up", "down"))
        answer = answer + share[:, [expert]] * swiglu(x, *parts)
    return answer, chosen.sum(dim=0).double() / chosen.sum()


def block(x, w, a):
    seen = norm(x, w["attention_norm.gain"], a)
    x = x + torch.cat([attention(text, w, a) for text in seen.split(LENGTHS)])
    y, load = mixture(norm(x, w["mixture_norm.gain"], a), w, a)
    return x + y, load


def results(tensors, a):
    trained = [n for n in tensors if n not in ("cotangent", "mixture.bias")]
    leaves = {n: t.clone().requires_grad_(n in trained) for n, t in tensors.items()}
    output, load = block(leaves["input"], leaves, a)
    (output * tensors["cotangent"]).sum().backward()
    gradients = {f"gradient.{name}": leaves[name].grad for name in trained}
    return {"output": output.detach(), "load": load, **gradients}


def main():
    tensors = made(ARCHITECTURE)
    found = results(tensors, ARCHITECTURE)
    even = results(tensors | {"mixture.bias": torch.zeros(ARCHITECTURE["experts"])}, ARCHITECTURE)
    assert not torch.equal(found["load"], even["load"]), "the bias must matter"
    every = tensors | found | {f"even.{name}": tensor for name, tensor in even.items()}
    folder = Path(__file__).parent
    save_file(
        {name: tensor.float().contiguous() for name, tensor in every.items()},
        folder / "block.safetensors",
    )
    about = {"architecture": ARCHITECTURE, "lengths": LENGTHS, "torch": torch.__version__}
    (folder / "block.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
