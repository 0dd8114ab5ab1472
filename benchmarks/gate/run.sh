#!/usr/bin/env bash
# Usage: benchmarks/gate/run.sh [--release] [options of `tidegate gate selftest`]
# Keeps the result and puts its table into docs/guides/gate.md, unless there are options. A trial that
# was stopped goes on where it was, as long as the program is the same.
set -euo pipefail
cd "$(dirname "$0")/../.."
. benchmarks/prepare.sh
setup/data.sh
build tidegate
found="$(mktemp)"
trap 'rm -f "$found"' EXIT
program="$(sha256sum "$programs/tidegate")"
kept="$TIDEGATE_CACHE/gate-trial-${program:0:16}.jsonl"
status=0
trial=(gate selftest --corpus "$corpus" --output json)
if [ "${#rest[@]}" -eq 0 ]; then
  "$programs/tidegate" "${trial[@]}" --keep "$kept" >"$found" || status=$?
  python3 benchmarks/gate/table.py "$found" benchmarks/results/gate.json docs/guides/gate.md
  rm -f "$kept"
else
  "$programs/tidegate" "${trial[@]}" "${rest[@]}" >"$found" || status=$?
  python3 benchmarks/gate/table.py "$found"
fi
exit "$status"
