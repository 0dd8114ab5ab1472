#!/usr/bin/env bash
# Unpacks one npm package into a folder of the cache, after checking its SHA-256.
# Usage: setup/npm_package.sh NAME VERSION SHA256 FOLDER
set -euo pipefail
name=$1 version=$2 sha256=$3
cache="${TIDEGATE_CACHE:-$HOME/.cache/tidegate}"
target="$cache/$4"
[[ -f "$target/.complete" && $(cat "$target/.complete") == "$sha256" ]] && exit 0

mkdir -p "$cache"
work=$(mktemp -d "$cache/npm.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "tidegate: getting $name $version"
(cd "$work" && npm pack --silent "$name@$version" >/dev/null)
tarball=$(find "$work" -name '*.tgz')
if ! echo "$sha256  $tarball" | sha256sum --check --quiet; then
  echo "tidegate: $name $version is not what was pinned: $(sha256sum "$tarball")" >&2
  exit 1
fi
mkdir "$work/package.new"
tar xzf "$tarball" -C "$work/package.new" --strip-components=1
echo "$sha256" >"$work/package.new/.complete"
rm -rf "$target"
mkdir -p "$(dirname "$target")"
mv "$work/package.new" "$target"
