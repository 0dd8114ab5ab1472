#!/usr/bin/env bash
# Usage: benchmarks/train_step/run.sh [--release] [options of the benchmark; --help lists them]
set -euo pipefail
cd "$(dirname "$0")/../.."
. benchmarks/prepare.sh
setup/torch.sh
build train_step
"$programs/train_step" --python "$TIDEGATE_CACHE/torch/bin/python" "${rest[@]}"
