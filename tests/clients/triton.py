"""Asks the gateway with NVIDIA's own client, tritonclient[grpc], unmodified.

Input (JSON): {"grpc": address, "texts": [...]}
Output (JSON): {"live", "ready", "model_ready": bool, "server", "model": metadata,
                "answers": [{"label", "probability", "classes", "generation"}], "pinned": ...}
"""
import json
import sys

import numpy as np
import tritonclient.grpc as triton


def ask(client, texts, version=""):
    tensor = triton.InferInput("text", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_))
    outputs = [triton.InferRequestedOutput("label"), triton.InferRequestedOutput("probabilities")]
    result = client.infer("default", [tensor], model_version=version, outputs=outputs)
    labels, rows = result.as_numpy("label"), result.as_numpy("probabilities")
    return [{"label": label.decode(), "probability": float(row.max()), "classes": len(row),
             "sum": float(row.sum()), "generation": result.get_response().model_version}
            for label, row in zip(labels, rows, strict=True)]


def main():
    asked = json.load(sys.stdin)
    client = triton.InferenceServerClient(asked["grpc"])
    answers = []
    for at in range(0, len(asked["texts"]), 32):
        answers += ask(client, asked["texts"][at:at + 32])
    generation = answers[0]["generation"]
    try:
        ask(client, asked["texts"][:1], "0" * 64)
        unknown = "answered"
    except triton.InferenceServerException as error:
        unknown = error.status()
    json.dump({
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("default"),
        "version_ready": client.is_model_ready("default", generation),
        "server": client.get_server_metadata(as_json=True),
        "model": client.get_model_metadata("default", as_json=True),
        "answers": answers,
        "pinned": ask(client, asked["texts"][:1], generation)[0],
        "unknown_version": unknown,
    }, sys.stdout)


main()
