#!/usr/bin/env bash
# Usage: benchmarks/metrics/run.sh [--release] [options of the benchmark; --help lists them]
set -euo pipefail
cd "$(dirname "$0")/../.."
. benchmarks/prepare.sh
setup/metrics.sh
build metrics
"$programs/metrics" --python "$TIDEGATE_CACHE/metrics/bin/python" "${rest[@]}"
