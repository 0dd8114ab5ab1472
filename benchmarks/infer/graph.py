"""The reference network as an ONNX graph, written by hand: an exporter unrolls the dispatch into
many more nodes.

Each expert gets the rows that chose it, found with `NonZero`. Of what ONNX Runtime 1.32 can do this
is the fastest on a core: all experts over all rows took 1.5 times as long (1.8 as batched
products), Microsoft's `MoE` operator 1.4 times. Attention and rotation as the operators of opset
23, as Microsoft's or spelled out are alike.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from peers.network import TINY
from safetensors.numpy import load_file

OPSET, IR = 23, 10


def ints(*values):
    return np.array(values, np.int64)


def floats(values):
    return np.array(values, np.float32)


class Graph:
    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, array):
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def __getattr__(self, kind):
        """`graph.MatMul(a, b)` adds a node; inputs are names or arrays."""

        def add(*inputs, outputs=1, **attributes):
            names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
            results = [f"node{len(self.nodes)}.{i}" for i in range(outputs)]
            self.nodes.append(helper.make_node(kind, names, results, **attributes))
            return results[0] if outputs == 1 else results

        return add

    def swiglu(self, x, gate, up, down):
        gate = self.MatMul(x, gate)
        hidden = self.Mul(self.Mul(gate, self.Sigmoid(gate)), self.MatMul(x, up))
        return self.MatMul(hidden, down)


def attention(g, x, weights, a, cos, sin):
    def rotated(y, heads):
        return g.RotaryEmbedding(y, cos, sin, num_heads=heads)

    heads, kv_heads = a["heads"], a["kv_heads"]
    seen = g.Attention(
        rotated(g.MatMul(x, weights["query"]), heads),
        rotated(g.MatMul(x, weights["key"]), kv_heads),
        g.MatMul(x, weights["value"]),
        q_num_heads=heads,
        kv_num_heads=kv_heads,
        is_causal=1,
    )
    return g.MatMul(seen, weights["out"])


def mixture(g, x, weights, a, length):
    """`x`: `[length, d_model]`, and so is the result."""
    top_k, d_model = a["top_k"], a["d_model"]
    affinity = g.Sigmoid(g.MatMul(x, weights["router"]))
    score = g.Add(affinity, weights["bias"])
    _, chosen = g.TopK(score, ints(top_k), axis=1, sorted=0, outputs=2)
    share = g.GatherElements(affinity, chosen, axis=1)
    total = g.Add(g.ReduceSum(share, ints(1), keepdims=1), floats(TINY))
    share = g.Reshape(g.Div(share, total), ints(-1, 1))
    chosen = g.Reshape(chosen, ints(-1))

    # A slot is one choice of one row; experts answer in their order, then slots in that of rows.
    slots, answers = [], []
    for expert in range(a["experts"]):
        slot = g.Reshape(g.NonZero(g.Equal(chosen, ints(expert))), ints(-1))
        sent = g.Gather(x, g.Div(slot, ints(top_k)))
        answer = g.swiglu(sent, *(weights[part][expert] for part in ("gate", "up", "down")))
        slots.append(slot)
        answers.append(g.Mul(answer, g.Gather(share, slot)))
    at = g.Reshape(g.Concat(*slots, axis=0), ints(-1, 1))
    empty = np.zeros((length * top_k, d_model), np.float32)
    answers = g.ScatterND(empty, at, g.Concat(*answers, axis=0))
    answers = g.ReduceSum(g.Reshape(answers, ints(length, top_k, d_model)), ints(1), keepdims=0)
    shared = g.swiglu(x, *(weights[f"shared.{part}"] for part in ("gate", "up", "down")))
    return g.Add(shared, answers)


def build(path, a, length):
    """Bytes of a model from `tokens` `[1, length]` to `logits` `[1, length, vocab]`."""
    weights, g = load_file(path), Graph()

    def of(prefix):
        return {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }

    def norm(x, name):
        return g.RMSNormalization(x, weights[f"{name}.gain"], axis=-1, epsilon=a["norm_epsilon"])

    head_width = a["d_model"] // a["heads"]
    speeds = a["rope_base"] ** (-2 * np.arange(head_width // 2) / head_width)
    angles = np.arange(length)[None, :, None] * speeds
    cos, sin = (g.constant(floats(f(angles))) for f in (np.cos, np.sin))

    x = g.Gather(weights["embedding"], "tokens")
    for layer in range(a["layers"]):
        block = f"blocks.{layer}."
        seen = norm(x, f"{block}attention_norm")
        x = g.Add(x, attention(g, seen, of(f"{block}attention."), a, cos, sin))
        rows = g.Reshape(norm(x, f"{block}mixture_norm"), ints(length, a["d_model"]))
        mixed = mixture(g, rows, of(f"{block}mixture."), a, length)
        x = g.Add(x, g.Reshape(mixed, ints(1, length, a["d_model"])))
    logits = g.Add(g.MatMul(norm(x, "norm"), weights["head.weight"]), weights["head.bias"])
    g.nodes.append(helper.make_node("Identity", [logits], ["logits"]))

    value = helper.make_tensor_value_info
    inputs = [value("tokens", TensorProto.INT64, [1, length])]
    outputs = [value("logits", TensorProto.FLOAT, [1, length, a["vocab"]])]
    graph = helper.make_graph(g.nodes, "network", inputs, outputs, g.constants)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR)
    onnx.checker.check_model(model)
    return model.SerializeToString()
