#!/usr/bin/env bash
# Usage: benchmarks/infer/run.sh [--release] [options of the benchmark; --help lists them]
set -euo pipefail
cd "$(dirname "$0")/../.."
. benchmarks/prepare.sh
setup/torch.sh
build infer
"$programs/infer" --python "$TIDEGATE_CACHE/torch/bin/python" "${rest[@]}"
