#!/usr/bin/env bash
# The peers that benchmarks run beside ours, in an environment of their own:
# $TIDEGATE_CACHE/bench/bin/python. Benchmarks call this themselves.
set -euo pipefail
cd "$(dirname "$0")"
./system.sh bench
./venv.sh bench ../benchmarks/requirements.txt
