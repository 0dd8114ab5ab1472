#!/usr/bin/env bash
# Usage: benchmarks/recovery/run.sh [--release] [options of the benchmark; --help lists them]
set -euo pipefail
cd "$(dirname "$0")/../.."
. benchmarks/prepare.sh
setup/data.sh
setup/torch.sh
build recovery
"$programs/recovery" --corpus "$corpus" --python "$TIDEGATE_CACHE/torch/bin/python" "${rest[@]}"
