#!/usr/bin/env bash
# Usage: benchmarks/suite/run.sh [--release] [options of the benchmark; --help lists them]
set -euo pipefail
cd "$(dirname "$0")/../.."
. benchmarks/prepare.sh
setup/data.sh
build suite
"$programs/suite" --corpus "$corpus" "${rest[@]}"
