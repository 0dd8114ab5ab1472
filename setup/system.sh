#!/usr/bin/env bash
# Installs the system packages that a target needs and this machine lacks.
# Usage: setup/system.sh build|demo|test      (Debian or Ubuntu; Rust is expected to be there)
set -euo pipefail

# command:package pairs; a package is installed only when its command is missing.
build="gcc:gcc g++:g++ make:make perl:perl pkg-config:pkg-config"
data="npm:npm curl:curl"
parts="redis-server:redis-server java:default-jre-headless mvn:maven python3:python3 chromium:chromium"

case "${1:-}" in
  build) wanted="$build" ;;
  demo) wanted="$build $data" ;;
  test) wanted="$build $data $parts" ;;
  *) echo "usage: $0 build|demo|test" >&2; exit 2 ;;
esac

if ! command -v cargo >/dev/null; then
  echo "tidegate: Rust 1.95 or newer is needed (rustup, or your distribution's packages)" >&2
  exit 1
fi
found=$(rustc --version | sed -E 's/^rustc ([0-9]+)\.([0-9]+).*/\1 \2/')
read -r major minor <<<"$found"
if ((major < 1 || (major == 1 && minor < 95))); then
  echo "tidegate: Rust $major.$minor is here, 1.95 or newer is needed" >&2
  exit 1
fi

missing=()
for pair in $wanted; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
if [[ ${1} == test ]] && ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  missing+=(python3-venv)
fi
((${#missing[@]})) || exit 0

if ! command -v apt-get >/dev/null; then
  echo "tidegate: please install: ${missing[*]}" >&2
  exit 1
fi
if [[ $(id -u) == 0 ]]; then
  as_root=()
elif sudo -n true 2>/dev/null; then
  as_root=(sudo)
else
  echo "tidegate: please run: sudo apt-get install -y ${missing[*]}" >&2
  exit 1
fi
echo "tidegate: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
