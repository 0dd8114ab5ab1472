#!/usr/bin/env bash
# Usage: benchmarks/gpu/run.sh [--release] [--build] [options of the benchmark; --help lists them]
# Builds the one binary that a machine with an NVIDIA GPU needs, and runs it; with --build it only says
# where it is. Needs no CUDA to build.
set -euo pipefail
cd "$(dirname "$0")/../.."
. benchmarks/prepare.sh
only_build=
options=()
for option in "${rest[@]}"; do
  if [ "$option" = --build ]; then only_build=1; else options+=("$option"); fi
done
# Of its own: other features than those of the workspace.
cargo build --locked "${profile[@]}" --package tidegate-benchmarks --features cuda --bin gpu
carried="$programs/gpu-benchmark"
strip -o "$carried" "$programs/gpu"
size=$(stat -c %s "$carried")
echo "$carried: $((size >> 20)) MiB"
if [ "$size" -ge $((64 << 20)) ]; then
  echo "it is to stay below 64 MiB" >&2
  exit 1
fi
[ -n "$only_build" ] && exit
"$carried" "${options[@]}"
