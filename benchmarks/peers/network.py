"""The reference network of `train_step` and `infer` in PyTorch: the maths of `libs/model`, causal,
with next-token logits. Parameters have the names and shapes of our weights file.

Pre-norm transformer; RMSNorm, RoPE (halves paired), grouped-query attention, SwiGLU experts. Tokens
are sorted by expert and each expert gets one matrix product: as a loop (`sorted`), or as PyTorch's
grouped product (`grouped`).
"""

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

# Keeps the normalisation finite when every chosen affinity underflows.
TINY = 1e-9


class RmsNorm(nn.Module):
    def __init__(self, width, epsilon):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.gain, self.epsilon)


class Rotation(nn.Module):
    """In each head, dimension `i` turns with `i + head_width / 2` by
    `position * base^(-2i / head_width)`."""

    def __init__(self, longest, head_width, base):
        super().__init__()
        at = torch.arange(head_width // 2, dtype=torch.float64)
        angles = torch.arange(longest)[:, None] * base ** (-2 * at / head_width)
        angles = torch.cat((angles, angles), dim=1)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x):
        """`x`: `[texts, heads, length, head_width]`."""
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
        length = x.shape[-2]
        return x * self.cos[:length] + turned * self.sin[:length]


class Attention(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.heads, self.kv_heads = a["heads"], a["kv_heads"]
        self.width = a["d_model"] // a["heads"]
        narrow = self.kv_heads * self.width
        self.query = nn.Parameter(torch.empty(a["d_model"], a["d_model"]))
        self.key = nn.Parameter(torch.empty(a["d_model"], narrow))
        self.value = nn.Parameter(torch.empty(a["d_model"], narrow))
        self.out = nn.Parameter(torch.empty(a["d_model"], a["d_model"]))

    def forward(self, x, rotation):
        texts, length, d_model = x.shape

        def split(y, heads):
            return y.view(texts, length, heads, self.width).transpose(1, 2)

        seen = F.scaled_dot_product_attention(
            rotation(split(x @ self.query, self.heads)),
            rotation(split(x @ self.key, self.kv_heads)),
            split(x @ self.value, self.kv_heads),
            is_causal=True,
            enable_gqa=self.kv_heads != self.heads,
        )
        return seen.transpose(1, 2).reshape(texts, length, d_model) @ self.out


class Shared(nn.Module):
    """Experts that see every token, as one of their summed width."""

    def __init__(self, d_model, width):
        super().__init__()
        self.gate = nn.Parameter(torch.empty(d_model, width))
        self.up = nn.Parameter(torch.empty(d_model, width))
        self.down = nn.Parameter(torch.empty(width, d_model))

    def forward(self, x):
        return (F.silu(x @ self.gate) * (x @ self.up)) @ self.down


class Mixture(nn.Module):
    def __init__(self, a, dispatch):
        super().__init__()
        d_model, experts, width = a["d_model"], a["experts"], a["expert_width"]
        self.top_k = a["top_k"]
        self.routed = {"sorted": self.loop, "grouped": self.grouped}[dispatch]
        self.shared = Shared(d_model, a["shared_experts"] * width)
        self.router = nn.Parameter(torch.empty(d_model, experts))
        # Steers the choice; moved by `balance`, never by gradient.
        self.register_buffer("bias", torch.zeros(experts))
        self.gate = nn.Parameter(torch.empty(experts, d_model, width))
        self.up = nn.Parameter(torch.empty(experts, d_model, width))
        self.down = nn.Parameter(torch.empty(experts, width, d_model))

    def forward(self, x):
        """`x`: `[tokens, d_model]`. Returns the same shape, and the tokens of each expert."""
        affinity = torch.sigmoid(x @ self.router)
        chosen = torch.topk(affinity.detach() + self.bias, self.top_k, dim=1, sorted=False).indices
        mixture = affinity.gather(1, chosen)
        mixture = mixture / (mixture.sum(dim=1, keepdim=True) + TINY)

        expert = chosen.flatten()
        order = expert.argsort(stable=True)
        counts = torch.bincount(expert, minlength=self.bias.numel())
        token = order // self.top_k
        answer = self.routed(x[token], counts) * mixture.flatten()[order, None]
        return self.shared(x).index_add(0, token, answer), counts

    def loop(self, sent, counts):
        weights = zip(self.gate.unbind(), self.up.unbind(), self.down.unbind())
        parts = zip(sent.split(counts.tolist()), weights)
        return torch.cat([(F.silu(x @ gate) * (x @ up)) @ down for x, (gate, up, down) in parts])

    def grouped(self, sent, counts):
        ends = counts.cumsum(0).to(torch.int32)
        hidden = F.silu(F.grouped_mm(sent, self.gate, offs=ends))
        hidden = hidden * F.grouped_mm(sent, self.up, offs=ends)
        return F.grouped_mm(hidden, self.down, offs=ends)

    @torch.no_grad()
    def balance(self, counts, step_size):
        """`b_i += step_size * sign(mean load - load_i)`."""
        self.bias += step_size * torch.sign(counts.sum() - counts * counts.numel())


class Block(nn.Module):
    def __init__(self, a, dispatch):
        super().__init__()
        self.attention_norm = RmsNorm(a["d_model"], a["norm_epsilon"])
        self.attention = Attention(a)
        self.mixture_norm = RmsNorm(a["d_model"], a["norm_epsilon"])
        self.mixture = Mixture(a, dispatch)

    def forward(self, x, rotation):
        x = x + self.attention(self.attention_norm(x), rotation)
        y, counts = self.mixture(self.mixture_norm(x).flatten(0, 1))
        return x + y.view_as(x), counts


class Head(nn.Module):
    def __init__(self, d_model, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model, classes))
        self.bias = nn.Parameter(torch.empty(classes))

    def forward(self, x):
        return x @ self.weight + self.bias


class Network(nn.Module):
    def __init__(self, a, dispatch, classes=None):
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(a["vocab"], a["d_model"]))
        self.blocks = nn.ModuleList(Block(a, dispatch) for _ in range(a["layers"]))
        self.norm = RmsNorm(a["d_model"], a["norm_epsilon"])
        self.head = Head(a["d_model"], classes or a["vocab"])
        self.rotation = Rotation(a["context"], a["d_model"] // a["heads"], a["rope_base"])

    def forward(self, tokens):
        """`tokens`: `[texts, length]`. Returns the logits `[texts, length, vocab]` of each next
        token, and each layer's tokens by expert."""
        x = F.embedding(tokens, self.embedding)
        loads = []
        for block in self.blocks:
            x, counts = block(x, self.rotation)
            loads.append(counts)
        return self.head(self.norm(x)), loads

    def balance(self, loads, step_size):
        for block, counts in zip(self.blocks, loads):
            block.mixture.balance(counts, step_size)


def load(path, architecture, dispatch, classes=None):
    """`architecture`: the fields of our `architecture.json`. Every name and shape must fit. The
    head's columns are the vocabulary, or so many `classes`."""
    network = Network(architecture, dispatch, classes)
    weights = load_file(path)
    # The wide path is a table beside the network; nothing here has n-grams.
    network.load_state_dict({n: w for n, w in weights.items() if not n.startswith("wide.")})
    return network
