#!/usr/bin/env bash
# Puts Apache Kafka's broker into the cache, for the tests: by coordinates, through mvn, and every
# jar checked against SHA256SUMS. Quick when it is there.
# After a change of pom.xml: tests/kafka/fetch.sh --pin writes SHA256SUMS anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
cache="${TIDEGATE_CACHE:-$HOME/.cache/tidegate}"
target="$cache/kafka"
if [[ "${1:-}" != --pin ]]; then
  pinned=$(cat pom.xml SHA256SUMS | sha256sum | cut -d' ' -f1)
  [[ -f "$target/.complete" && $(cat "$target/.complete") == "$pinned" ]] && exit 0
fi

for command in mvn java; do
  if ! command -v "$command" >/dev/null; then
    echo "tidegate: $command is needed to run Apache Kafka in the tests (setup/system.sh test installs it)" >&2
    exit 1
  fi
done
mkdir -p "$cache"
work=$(mktemp -d "$cache/kafka.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "tidegate: getting Apache Kafka $(grep -A1 '<artifactId>kafka_' pom.xml | sed -nE 's/.*<version>(.*)<.*/\1/p')"
mvn --quiet --batch-mode -Dstyle.color=never --file pom.xml dependency:copy-dependencies \
  -DincludeScope=runtime -DoutputDirectory="$work/libs"

if [[ "${1:-}" == --pin ]]; then
  (cd "$work/libs" && LC_ALL=C sha256sum -- *.jar) >SHA256SUMS
  pinned=$(cat pom.xml SHA256SUMS | sha256sum | cut -d' ' -f1)
fi
sums="$PWD/SHA256SUMS"
# The bytes are those, and there are no others.
if ! (cd "$work/libs" && sha256sum --check --quiet "$sums" &&
  diff <(LC_ALL=C ls) <(sed -E 's/^[0-9a-f]+  //' "$sums" | LC_ALL=C sort)); then
  echo "tidegate: the jars are not what tests/kafka/SHA256SUMS says: nothing was installed" >&2
  exit 1
fi
echo "$pinned" >"$work/.complete"
rm -rf "$target"
mv "$work" "$target"
trap - EXIT
