#!/usr/bin/env python3
"""Renders the chart with the real helm.

    helm/render.py helm/ci/minimal.yaml     prints the objects as JSON
"""
import json
import os
import pathlib
import subprocess
import sys

import yaml

HERE = pathlib.Path(__file__).parent
CHART = HERE / "tidegate"
CACHE = pathlib.Path(os.environ.get("TIDEGATE_CACHE") or pathlib.Path.home() / ".cache/tidegate")
# How the rendered release is called, and where it would be.
RELEASE, NAMESPACE = "house", "ml"


def helm(*args):
    """Runs helm; its outputs and its exit code."""
    # Neither the user's plugins nor a cluster has anything to do with this.
    env = os.environ | {"HELM_PLUGINS": "/nonexistent", "KUBECONFIG": "/nonexistent"}
    command = [str(CACHE / "tools/bin/helm"), *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def template(values, *sets):
    return helm("template", RELEASE, CHART, "--namespace", NAMESPACE, "--values", values, *sets)


def objects(values, *sets):
    done = template(values, *sets)
    if done.returncode != 0:
        sys.exit(f"helm template --values {values} {' '.join(sets)}\n{done.stderr}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


if __name__ == "__main__":
    json.dump(objects(sys.argv[1], *sys.argv[2:]), sys.stdout)
