"""PyTorch trains the large mixture of experts on a GPU: bf16 products and activations, f32 master
weights, AdamW (fused), next-token loss, bias balancing. The maths of `libs/model`, the same sizes.

Experts are PyTorch's grouped product (`torch._grouped_mm`, or its public name where there is one),
attention its `scaled_dot_product_attention`. Two ways: `eager`, and `compiled` (`torch.compile`),
where Triton is there.

The job: `architecture` (ours), `batch`, `sequence`, `learning_rate`, `beta1`, `beta2`, `epsilon`,
`weight_decay`, `balance`. It says first its `versions` and `ways`. Requests:

    train WAY ROUTING SECONDS    whole steps; ROUTING is `router`, or `balanced`: every expert gets
                                 as many tokens, whatever the router says
    matmul SIDE SECONDS          the bf16 product of two square matrices

Both answer with `samples_s`, the seconds of each; the first with `memory_gib`, `fullest` (what the
fullest expert got, as a multiple of the even share) and `loss`, too.

On a machine without a GPU it runs the same on the CPU, where the grouped product is a loop: that
shows that the script works, and nothing else.
"""

import gc
import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from peers import turns
from torch import nn

# Keeps the normalisation finite when every chosen affinity underflows.
TINY = 1e-9
HALF = torch.bfloat16
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WARM_UP = 4
GROUPED = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def grouped(x, matrices, ends):
    if DEVICE == "cuda":
        return GROUPED(x, matrices, offs=ends)
    starts = [0, *ends.tolist()]
    return torch.cat([x[a:b] @ m for a, b, m in zip(starts, starts[1:], matrices)])


def matrix(*shape):
    bound = (3 / shape[-2]) ** 0.5
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class Rotation(nn.Module):
    def __init__(self, longest, width, base):
        super().__init__()
        at = torch.arange(width // 2, dtype=torch.float64)
        angles = torch.arange(longest)[:, None] * base ** (-2 * at / width)
        angles = torch.cat((angles, angles), dim=1)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x):
        """`x`: `[texts, heads, length, width]`."""
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
        return (x * self.cos + turned * self.sin).to(x.dtype)


class Norm(nn.Module):
    def __init__(self, width, epsilon):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.gain, self.epsilon).to(HALF)


class Block(nn.Module):
    def __init__(self, a):
        super().__init__()
        d, width, experts = a["d_model"], a["expert_width"], a["experts"]
        self.heads, self.kv_heads, self.top_k = a["heads"], a["kv_heads"], a["top_k"]
        self.width = d // self.heads
        narrow = self.kv_heads * self.width
        self.attention_norm = Norm(d, a["norm_epsilon"])
        self.query, self.key, self.value = matrix(d, d), matrix(d, narrow), matrix(d, narrow)
        self.out = matrix(d, d)
        self.mixture_norm = Norm(d, a["norm_epsilon"])
        shared = a["shared_experts"] * width
        self.shared_gate, self.shared_up = matrix(d, shared), matrix(d, shared)
        self.shared_down = matrix(shared, d)
        self.router = matrix(d, experts)
        self.register_buffer("bias", torch.zeros(experts))
        self.gate, self.up = matrix(experts, d, width), matrix(experts, d, width)
        self.down = matrix(experts, width, d)

    def attention(self, x, rotation):
        texts, length, d = x.shape

        def split(y, heads):
            return y.view(texts, length, heads, self.width).transpose(1, 2)

        seen = F.scaled_dot_product_attention(
            rotation(split(x @ self.query.to(HALF), self.heads)),
            rotation(split(x @ self.key.to(HALF), self.kv_heads)),
            split(x @ self.value.to(HALF), self.kv_heads),
            is_causal=True,
            enable_gqa=self.kv_heads != self.heads,
        )
        return seen.transpose(1, 2).reshape(texts, length, d) @ self.out.to(HALF)

    def mixture(self, x, even):
        """`x`: `[tokens, d_model]`."""
        rows, experts = x.shape[0], self.bias.numel()
        affinity = torch.sigmoid(x.float() @ self.router)
        if even:
            chosen = torch.arange(rows * self.top_k, device=x.device).view(rows, -1) % experts
        else:
            chosen = torch.topk(affinity.detach() + self.bias, self.top_k, dim=1, sorted=False)
            chosen = chosen.indices
        weights = affinity.gather(1, chosen)
        weights = weights / (weights.sum(dim=1, keepdim=True) + TINY)
        expert = chosen.flatten()
        order = expert.argsort(stable=True)
        counts = torch.bincount(expert, minlength=experts)
        ends = counts.cumsum(0).to(torch.int32)
        token = order // self.top_k
        sent = x[token]
        hidden = F.silu(grouped(sent, self.gate.to(HALF), ends))
        hidden = hidden * grouped(sent, self.up.to(HALF), ends)
        answer = grouped(hidden, self.down.to(HALF), ends) * weights.flatten()[order, None].to(HALF)
        hidden = F.silu(x @ self.shared_gate.to(HALF)) * (x @ self.shared_up.to(HALF))
        return (hidden @ self.shared_down.to(HALF)).index_add(0, token, answer), counts

    def forward(self, x, rotation, even):
        x = x + self.attention(self.attention_norm(x), rotation)
        y, counts = self.mixture(self.mixture_norm(x).flatten(0, 1), even)
        return x + y.view_as(x), counts


class Network(nn.Module):
    def __init__(self, a, even):
        super().__init__()
        self.even = even
        self.embedding = nn.Parameter(torch.empty(a["vocab"], a["d_model"]).uniform_(-0.17, 0.17))
        self.blocks = nn.ModuleList(Block(a) for _ in range(a["layers"]))
        self.norm = Norm(a["d_model"], a["norm_epsilon"])
        self.head = matrix(a["d_model"], a["vocab"])
        self.head_bias = nn.Parameter(torch.zeros(a["vocab"]))
        self.rotation = Rotation(a["context"], a["d_model"] // a["heads"], a["rope_base"])

    def forward(self, tokens, following):
        x = F.embedding(tokens, self.embedding).to(HALF)
        loads = []
        for block in self.blocks:
            x, counts = block(x, self.rotation, self.even)
            loads.append(counts)
        logits = (self.norm(x) @ self.head.to(HALF)).float() + self.head_bias
        loss = F.cross_entropy(logits.flatten(0, 1), following.flatten())
        return loss, torch.stack(loads)

    @torch.no_grad()
    def balance(self, loads, step_size):
        for block, counts in zip(self.blocks, loads):
            block.bias += step_size * torch.sign(counts.sum() - counts * counts.numel())


def wait():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def begin(job):
    if DEVICE == "cuda" and GROUPED is None:
        raise RuntimeError(f"PyTorch {torch.__version__} has no grouped product: 2.8 or newer has")
    torch.backends.cuda.matmul.allow_tf32 = True
    architecture = job["architecture"]
    ways = ["eager"]
    if DEVICE == "cuda" and importlib.util.find_spec("triton"):
        ways.append("compiled")

    def train(way, routing, seconds):
        torch.manual_seed(7)
        with torch.device(DEVICE):
            network = Network(architecture, routing == "balanced")
            shape = (8, job["batch"], job["sequence"] + 1)
            batches = torch.randint(architecture["vocab"], shape)
        run = torch.compile(network, dynamic=False) if way == "compiled" else network
        optimiser = torch.optim.AdamW(
            network.parameters(),
            lr=job["learning_rate"],
            betas=(job["beta1"], job["beta2"]),
            eps=job["epsilon"],
            weight_decay=job["weight_decay"],
            fused=True,
        )
        state = {"at": 0}

        def step():
            rows = batches[state["at"] % len(batches)]
            state["at"] += 1
            optimiser.zero_grad(set_to_none=True)
            loss, loads = run(rows[:, :-1], rows[:, 1:])
            loss.backward()
            optimiser.step()
            network.balance(loads, job["balance"])
            # Reading it waits for the device, as ours does.
            state["loss"], state["loads"] = loss.item(), loads

        for _ in range(WARM_UP):
            step()
        samples = turns.timed(step, float(seconds))
        loads = state["loads"].float()
        fullest = (loads.amax(1) / loads.mean(1)).max().item()
        free, total = torch.cuda.mem_get_info() if DEVICE == "cuda" else (0, 0)
        answer = {"samples_s": samples, "fullest": fullest, "loss": state["loss"]}
        answer["memory_gib"] = (total - free) / 2**30
        del network, run, optimiser, batches, state, step
        gc.collect()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
        return answer

    def matmul(side, seconds):
        side = int(side)
        a, b = (torch.rand(side, side, device=DEVICE).to(HALF) for _ in range(2))
        out = torch.empty(side, side, device=DEVICE, dtype=HALF)

        def once():
            for _ in range(8):
                torch.mm(a, b, out=out)
            wait()

        once()
        return {"samples_s": [s / 8 for s in turns.timed(once, float(seconds))]}

    first = {"versions": turns.versions("torch"), "ways": ways}
    return first, {"train": train, "matmul": matmul}


if __name__ == "__main__":
    turns.serve(begin)
