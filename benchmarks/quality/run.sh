#!/usr/bin/env bash
# Usage: benchmarks/quality/run.sh [--release] [options of the benchmark; --help lists them]
set -euo pipefail
cd "$(dirname "$0")/../.."
. benchmarks/prepare.sh
setup/data.sh
setup/bench.sh
setup/opinions.sh
build quality
"$programs/quality" --corpus "$corpus" --opinions "$opinions" --python "$python" "${rest[@]}"
