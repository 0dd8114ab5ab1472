"""PyTorch and ONNX Runtime answer requests of one text with the reference network: all its logits.

Ways: `eager` and `compiled` PyTorch, `onnx`. All is f32.

The job: `weights` and `tokens` (files), `architecture` (ours), `threads`, `sequence`, `warm_up`
(requests), `ways` (which of them), `folder` (to write to). `tokens` are i32, little-endian, rows of
`sequence`: a request is the next row, and begins again at the end.

It says first, for each way, how far its logits of the first row are from those of the first way,
and writes them to `folder/logits.WAY.bin` (f32, little-endian, `[sequence, vocab]`). Requests:

    latency WAY COUNT                   one after the other; `microseconds` of each
    throughput WAY CLIENTS SECONDS      each client is a thread of its own that computes on itself
                                        alone, all on the same weights; `requests` of all, `seconds`
"""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import graph
import numpy as np
import onnxruntime
import torch
from peers import network, turns


class PyTorch:
    def __init__(self, job, compiled):
        self.threads = job["threads"]
        dispatch = "grouped" if compiled else "sorted"
        self.run = network.load(job["weights"], job["architecture"], dispatch)
        self.run.requires_grad_(False)
        if compiled:
            self.run = torch.compile(self.run, fullgraph=True, dynamic=False)

    def request(self, row):
        return torch.from_numpy(row[None])

    @torch.inference_mode()
    def answer(self, request):
        logits, _ = self.run(request)
        return logits.numpy()

    def share(self, alone):
        """Sets how many threads work on a request of the calling thread."""
        torch.set_num_threads(1 if alone else self.threads)


class Onnx:
    def __init__(self, job):
        model = graph.build(job["weights"], job["architecture"], job["sequence"])
        self.together = self.session(model, job["threads"])
        self.alone = self.session(model, 1)
        self.run = self.together

    @staticmethod
    def session(model, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def request(self, row):
        return {"tokens": row[None]}

    def answer(self, request):
        return self.run.run(None, request)[0]

    def share(self, alone):
        self.run = self.alone if alone else self.together


def latency(way, requests, count):
    samples = []
    for _ in range(count):
        request = next(requests)
        began = time.perf_counter_ns()
        way.answer(request)
        samples.append((time.perf_counter_ns() - began) / 1000)
    return samples


def throughput(way, requests, clients, seconds, warm_up):
    """Requests that all clients together got answered, and how long they took."""
    start = threading.Barrier(clients)

    def client(number):
        try:
            way.share(alone=True)
            own = cycle(requests[number::clients])
            latency(way, own, warm_up)
        except Exception:
            start.abort()  # The others must not wait for it.
            raise
        start.wait()
        count, began = 0, time.perf_counter()
        while time.perf_counter() < began + seconds:
            way.answer(next(own))
            count += 1
        return count, began, time.perf_counter()

    way.share(alone=True)
    latency(way, cycle(requests), 1)  # `torch.compile` does it anew for the number of threads.
    try:
        with ThreadPoolExecutor(clients) as pool:
            counts, begun, ended = zip(*pool.map(client, range(clients)))
    finally:
        way.share(alone=False)
    took = max(ended) - min(begun)
    return {"requests": sum(counts), "seconds": took}


def begin(job):
    torch.set_num_threads(job["threads"])
    make = {
        "eager": lambda: PyTorch(job, compiled=False),
        "compiled": lambda: PyTorch(job, compiled=True),
        "onnx": lambda: Onnx(job),
    }
    ways = {name: make[name]() for name in job["ways"]}
    rows = np.fromfile(job["tokens"], "<i4").reshape(-1, job["sequence"]).astype(np.int64)
    requests, checks, reference = {}, {}, None
    for name, way in ways.items():
        requests[name] = [way.request(row) for row in rows]
        logits = way.answer(requests[name][0])[0]
        logits.astype("<f4").tofile(Path(job["folder"]) / f"logits.{name}.bin")
        reference = logits if reference is None else reference
        checks[name] = {"logits_apart": float(np.abs(logits - reference).max())}
        latency(way, cycle(requests[name]), job["warm_up"])
    streams = {name: cycle(all) for name, all in requests.items()}

    def ask_latency(name, count):
        return {"microseconds": latency(ways[name], streams[name], int(count))}

    def ask_throughput(name, clients, seconds):
        way, warm_up = ways[name], job["warm_up"]
        return throughput(way, requests[name], int(clients), float(seconds), warm_up)

    versions = turns.versions("torch", "onnxruntime", "onnx", "numpy")
    answers = {"latency": ask_latency, "throughput": ask_throughput}
    return {"ways": checks, "versions": versions}, answers


if __name__ == "__main__":
    turns.serve(begin)
