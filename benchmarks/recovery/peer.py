"""PyTorch goes on after a kill, and takes up a large network.

Usage: peer.py WHAT JOB, where JOB is a file of JSON.

    make      writes `checkpoint`: weights and AdamW state of the network of `architecture` after a step
    resume    reads it and takes one step on `batch` texts: all that a new process does before its first step
    load      `runs` times: SHA-256 of `weights` (safetensors), a network of `architecture` and
              `classes` from them, one forward of 64 tokens; prints the seconds of each

`threads`: of PyTorch.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from peers import network, turns


def learner(job):
    net = network.Network(job["architecture"], "sorted")
    return net, torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)


def step(net, optimiser, job):
    a = job["architecture"]
    tokens = torch.randint(a["vocab"], (job["batch"], a["context"]))
    optimiser.zero_grad(set_to_none=True)
    logits, _ = net(tokens)
    loss = F.cross_entropy(logits.flatten(0, 1), tokens.roll(-1, 1).flatten())
    loss.backward()
    optimiser.step()
    return loss.item()


def make(job):
    net, optimiser = learner(job)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    step(net, optimiser, job)
    state = {"network": net.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save(state, job["checkpoint"])


def resume(job):
    state = torch.load(job["checkpoint"], weights_only=True)
    net, optimiser = learner(job)
    net.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    step(net, optimiser, job)


def load(job):
    seconds = []
    for _ in range(job["runs"]):
        began = time.perf_counter()
        with open(job["weights"], "rb") as file:
            hashlib.file_digest(file, "sha256").hexdigest()
        net = network.load(job["weights"], job["architecture"], "sorted", job["classes"])
        with torch.inference_mode():
            net(torch.zeros(1, 64, dtype=torch.int64))
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds, "versions": turns.versions("torch", "safetensors")}))


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as file:
        what = json.load(file)
    torch.set_num_threads(what["threads"])
    {"make": make, "resume": resume, "load": load}[sys.argv[1]](what)
