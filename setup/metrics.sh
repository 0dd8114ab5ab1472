#!/usr/bin/env bash
# scikit-learn and fairlearn, which metrics are measured beside, in an environment of their own:
# $TIDEGATE_CACHE/metrics/bin/python. The benchmark calls this itself.
set -euo pipefail
cd "$(dirname "$0")"
./system.sh bench
./venv.sh metrics ../benchmarks/metrics-requirements.txt
