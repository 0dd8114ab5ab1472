#!/usr/bin/env bash
# Usage: benchmarks/gate/run.sh [--release] [options of `tidegate gate selftest`]
# Keeps the result and puts its table into docs/guides/gate.md, unless there are options.
set -euo pipefail
cd "$(dirname "$0")/../.."
. benchmarks/prepare.sh
setup/data.sh
build tidegate
found="$(mktemp)"
trap 'rm -f "$found"' EXIT
status=0
"$programs/tidegate" gate selftest --corpus "$corpus" --output json "${rest[@]}" >"$found" || status=$?
if [ "${#rest[@]}" -eq 0 ]; then
  python3 benchmarks/gate/table.py "$found" benchmarks/results/gate.json docs/guides/gate.md
else
  python3 benchmarks/gate/table.py "$found"
fi
exit "$status"
