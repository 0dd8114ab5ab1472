#!/usr/bin/env bash
# Usage: benchmarks/continual/run.sh [--release] [options of the benchmark; --help lists them]
set -euo pipefail
cd "$(dirname "$0")/../.."
. benchmarks/prepare.sh
setup/data.sh
setup/bench.sh
setup/opinions.sh
build continual
"$programs/continual" --corpus "$corpus" --opinions "$opinions" "${rest[@]}"
