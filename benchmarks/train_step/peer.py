"""PyTorch trains the reference network: forward, next-token loss, backward, AdamW, balance.

Three ways to run the same network: `sorted` (one matrix product an expert), `grouped` (PyTorch's
grouped product), `compiled` (the latter through `torch.compile`). All is f32.

The job: `weights` and `tokens` (files), `architecture` (ours), `threads`, `batch`, `sequence`,
`learning_rate`, `beta1`, `beta2`, `epsilon`, `weight_decay`, `balance`, `ways` (which of them),
`check_steps`, `logits` (a file to write). `tokens` are i32, little-endian, rows of `sequence + 1`:
a step takes the next `batch` rows and begins again at the end; a row's first `sequence` tokens are
read, each of its last `sequence` is predicted.

It says first, for each way, the losses of the first `check_steps` steps and how far its logits of
the first batch are from those of the first way, and writes the latter for the first row (f32,
`[sequence, vocab]`). Requests:

    forward WAY SECONDS    logits of one batch after the other, without gradients
    train WAY SECONDS      whole steps
    matmul SECONDS         the product of two 1024 x 1024 matrices

All answer with `samples_s`, the seconds of each; the first two with `tokens`, those of one sample;
`matmul` with `flop`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from peers import network, turns

DISPATCH = {"sorted": "sorted", "grouped": "grouped", "compiled": "grouped"}


class Batches:
    def __init__(self, job):
        rows = np.fromfile(job["tokens"], "<i4").reshape(-1, job["sequence"] + 1)
        rows = rows[: len(rows) // job["batch"] * job["batch"]]
        self.all = torch.from_numpy(rows.astype(np.int64)).split(job["batch"])
        self.next = 0

    def take(self):
        rows = self.all[self.next % len(self.all)]
        self.next += 1
        return rows[:, :-1], rows[:, 1:]


class Way:
    """A network of its own, its optimiser, and where it is in the stream."""

    def __init__(self, name, job):
        self.network = network.load(job["weights"], job["architecture"], DISPATCH[name])
        self.run = self.network
        if name == "compiled":
            self.run = torch.compile(self.network, fullgraph=True, dynamic=False)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=job["learning_rate"],
            betas=(job["beta1"], job["beta2"]),
            eps=job["epsilon"],
            weight_decay=job["weight_decay"],
            fused=True,
        )
        self.balance = job["balance"]
        self.batches = Batches(job)

    @torch.inference_mode()
    def forward(self):
        logits, _ = self.run(self.batches.take()[0])
        return logits

    def train(self):
        tokens, following = self.batches.take()
        self.optimiser.zero_grad(set_to_none=True)
        logits, loads = self.run(tokens)
        loss = F.cross_entropy(logits.flatten(0, 1), following.flatten())
        loss.backward()
        self.optimiser.step()
        self.network.balance(loads, self.balance)
        return loss.item()


def begin(job):
    torch.set_num_threads(job["threads"])
    ways = {name: Way(name, job) for name in job["ways"]}
    checks, reference = {}, None
    for name, way in ways.items():
        logits = way.forward()
        if reference is None:
            reference = logits
            logits[0].numpy().astype("<f4").tofile(job["logits"])
        way.batches.next = 0
        checks[name] = {
            "losses": [way.train() for _ in range(job["check_steps"])],
            "logits_apart": (logits - reference).abs().max().item(),
        }
    tokens = job["batch"] * job["sequence"]

    def forward(name, seconds):
        return {"tokens": tokens, "samples_s": turns.timed(ways[name].forward, float(seconds))}

    def train(name, seconds):
        return {"tokens": tokens, "samples_s": turns.timed(ways[name].train, float(seconds))}

    def matmul(seconds):
        a, b, out = (torch.rand(1024, 1024) for _ in range(3))
        samples = turns.timed(lambda: torch.mm(a, b, out=out), float(seconds))
        return {"flop": 2 * 1024**3, "samples_s": samples}

    first = {"ways": checks, "versions": turns.versions("torch", "numpy")}
    return first, {"forward": forward, "train": train, "matmul": matmul}


if __name__ == "__main__":
    turns.serve(begin)
