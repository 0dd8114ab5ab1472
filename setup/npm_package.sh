#!/usr/bin/env bash
# Unpacks one npm package into a folder of the cache, after checking its SHA-256.
# Usage: setup/npm_package.sh NAME VERSION SHA256 FOLDER
set -euo pipefail
name=$1 version=$2 sha256=$3
target="${TIDEGATE_CACHE:-$HOME/.cache/tidegate}/$4"

complete() { [[ $(cat "$target/.complete" 2>/dev/null) == "$sha256" ]]; }
complete && exit 0

mkdir -p "$(dirname "$target")"
exec 9>"$target.lock"
flock 9
complete && exit 0 # another process got it while we waited

# Nothing is at its place before it is whole, so an interruption costs only the time.
work="$target.new"
rm -rf "$work"
mkdir "$work"
trap 'rm -rf "$work"' EXIT
echo "tidegate: getting $name $version"
(cd "$work" && npm pack --loglevel=error "$name@$version" >/dev/null)
tarball=$(find "$work" -name '*.tgz')
if ! sha256sum --check --status <<<"$sha256  $tarball"; then
  echo "tidegate: $name $version is not what was pinned: $(sha256sum "$tarball")" >&2
  exit 1
fi
mkdir "$work/package.new"
tar xzf "$tarball" -C "$work/package.new" --strip-components=1 --no-same-owner
echo "$sha256" >"$work/package.new/.complete"
rm -rf "$target"
mv "$work/package.new" "$target"
