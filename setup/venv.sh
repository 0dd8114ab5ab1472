#!/usr/bin/env bash
# A Python environment in the cache with exactly the pinned packages; made anew when the pins or
# the machine's Python change.
# Usage: setup/venv.sh FOLDER REQUIREMENTS [OPTIONS OF PIP INSTALL]
set -euo pipefail
target="${TIDEGATE_CACHE:-$HOME/.cache/tidegate}/$1" requirements=$2
shift 2
wanted="$(python3 --version) $(sha256sum <"$requirements")"

complete() { [[ $(cat "$target/.complete" 2>/dev/null) == "$wanted" ]]; }
complete && exit 0

mkdir -p "$(dirname "$target")"
exec 9>"$target.lock"
flock 9
complete && exit 0 # another process made it while we waited

# An environment cannot be moved, so it is made in place; `.complete` comes last.
echo "tidegate: installing $(basename "$(dirname "$requirements")")/$(basename "$requirements") (Python)"
rm -rf "$target"
python3 -m venv "$target"
"$target/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
  --only-binary=:all: --requirement "$requirements" "$@"
echo "$wanted" >"$target/.complete"
