#!/usr/bin/env python3
"""Keeps the `config` part of the chart's values schema true to the binary.

    tidegate config show --output json | helm/schema.py           writes it
    tidegate config show --output json | helm/schema.py --check   exit code 1 when it is not true

Every field of the configuration is a field of `config` in values.yaml, of the same type, except
those that the chart decides itself.
"""
import json
import pathlib
import sys

SCHEMA = pathlib.Path(__file__).parent / "tidegate/values.schema.json"

# What the chart decides, by values of its own.
OWNED = {
    "controller.webhooks",
    "data_dir",
    "device",
    "evaluator.suite",
    "gateway.name",
    "ledger",
    "listen",
    "stream",
    "telemetry.service_name",
    "trainer.recipe_file",
}
# `config show` prints null for what is not set, and null has no type.
OPTIONAL = {
    "controller.lag_trigger.max_wait_s": 0,
    "controller.schedule.cold_start": "",
    "controller.schedule.hot_update": "",
    "telemetry.otlp_endpoint": "",
    "trainer.recipe.encoder": {
        "config": "",
        "folder": "",
        "model": "",
        "tokenizer": "",
        "upcycling": {"dense_layers": 0, "experts": 1, "top_k": 1},
    },
}

# What a list holds that is empty by default; strings, where it is not said here.
ITEMS = {
    "controller.policy.stages": {
        "stage": "",
        "share": 0.0,
        "at_least": "",
        "at_most": "",
        "requests": 0,
        "labels": 0,
        "margin": 0.0,
        "alpha": 0.0,
        "errors": 0.0,
        "latency": 0.0,
        "kinds": [],
    },
}


def schema_of(value, path):
    if value is None:
        if path not in OPTIONAL:
            sys.exit(f"helm/schema.py: `{path}` is null by default: say its type in OPTIONAL")
        value = OPTIONAL[path]
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return {"type": "integer", "minimum": 0}
    if isinstance(value, float):
        return {"type": "number"}
    if isinstance(value, str):
        return {"type": "string"}
    if isinstance(value, list):
        items = schema_of(value[0] if value else ITEMS.get(path, ""), path)
        return {"type": "array", "items": items}
    inner = {key: f"{path}.{key}" if path else key for key in value}
    properties = {
        key: schema_of(value[key], at) for key, at in sorted(inner.items()) if at not in OWNED
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def main():
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["config"] = schema_of(json.load(sys.stdin), "")
    text = json.dumps(schema, indent=2) + "\n"
    if "--check" not in sys.argv[1:]:
        SCHEMA.write_text(text)
    elif text != SCHEMA.read_text():
        sys.exit(
            "the chart's values schema does not know the configuration as it is:\n"
            "run `tidegate config show --output json | helm/schema.py` and look at the difference"
        )


main()
