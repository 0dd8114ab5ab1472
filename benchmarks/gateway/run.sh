#!/usr/bin/env bash
# Usage: benchmarks/gateway/run.sh [--release] [options of the benchmark; --help lists them]
set -euo pipefail
cd "$(dirname "$0")/../.."
. benchmarks/prepare.sh
setup/data.sh
build gateway
"$programs/gateway" --corpus "$corpus" --tidegate "$programs/tidegate" "${rest[@]}"
