#!/usr/bin/env bash
# PyTorch and ONNX Runtime, which benchmarks run beside ours, in an environment of their own (4 GB):
# $TIDEGATE_CACHE/torch/bin/python. Benchmarks call this themselves.
set -euo pipefail
cd "$(dirname "$0")"
./system.sh bench
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "tidegate: PyTorch needs Python 3.11 or newer, $(python3 --version) is here" >&2
  exit 1
}
./venv.sh torch ../benchmarks/torch-requirements.txt --no-deps
