#!/usr/bin/env bash
# Sentences of four sources with ratings by twenty people each: the data of the VADER paper (MIT),
# out of the source package of vaderSentiment on PyPI. Only benchmarks need it, and it needs their
# Python (setup/bench.sh).
set -euo pipefail
cd "$(dirname "$0")"
version=3.3.2 sha256=5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9
target="${TIDEGATE_CACHE:-$HOME/.cache/tidegate}/data/opinions"

complete() { [[ $(cat "$target/.complete" 2>/dev/null) == "$sha256" ]]; }
complete && exit 0

mkdir -p "$(dirname "$target")"
exec 9>"$target.lock"
flock 9
complete && exit 0 # another process got it while we waited

# Nothing is at its place before it is whole, so an interruption costs only the time.
work="$target.new"
rm -rf "$work"
mkdir -p "$work/package"
trap 'rm -rf "$work"' EXIT
echo "tidegate: getting vaderSentiment $version (source)"
# `pip` checks the hash before the package's own setup.py tells its metadata.
echo "vaderSentiment==$version --hash=sha256:$sha256" >"$work/pin.txt"
"${TIDEGATE_CACHE:-$HOME/.cache/tidegate}/bench/bin/python" -m pip download --quiet --disable-pip-version-check --no-input --no-deps \
  --no-binary=vaderSentiment --require-hashes --requirement "$work/pin.txt" --dest "$work"
tar xzf "$work/vaderSentiment-$version.tar.gz" -O --wildcards '*/hutto_ICWSM_2014.tar.gz' |
  tar xz -C "$work/package" --strip-components=1 --no-same-owner
echo "$sha256" >"$work/package/.complete"
rm -rf "$target"
mv "$work/package" "$target"
