#!/usr/bin/env bash
# Lints and renders the chart with the real helm, and holds the result against Kubernetes' schemas
# and our own promises. What the binary says of the rendered configuration: tests/tests/helm.rs.
set -euo pipefail
cd "$(dirname "$0")"
python="${TIDEGATE_CACHE:-$HOME/.cache/tidegate}/clients/bin/python"
if [[ ! -x $python ]]; then
  echo "tidegate: $python is missing: run setup/tools.sh" >&2
  exit 1
fi
exec "$python" -B check.py
