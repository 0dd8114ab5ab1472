#!/usr/bin/env bash
# Installs the system packages that a target needs and this machine lacks.
# Usage: setup/system.sh build|demo|bench|test     (Debian or Ubuntu; Rust is expected to be there)
set -euo pipefail

# What a target runs, as command:package; a package is installed only when its command is missing.
build="gcc:gcc g++:g++ make:make pkg-config:pkg-config"
data="node:nodejs npm:npm"
python="python3:python3"
parts="redis-server:redis-server java:default-jre-headless mvn:maven chromium:chromium curl:curl openssl:openssl"

case "${1:-}" in
  build) wanted="$build" ;;
  demo) wanted="$build $data" ;;
  bench) wanted="$build $data $python" ;;
  test) wanted="$build $data $python $parts" ;;
  *) echo "usage: $0 build|demo|bench|test" >&2; exit 2 ;;
esac

fail() {
  echo "tidegate: $*" >&2
  exit 1
}

# The first two numbers of a version text, e.g. `1 95`.
version() { sed -nE '1s/[^0-9]*([0-9]+)\.([0-9]+).*/\1 \2/p'; }

at_least() { # NAME "MAJOR MINOR" MAJOR MINOR
  local major minor
  read -r major minor <<<"$2"
  ((${major:-0} > $3 || (${major:-0} == $3 && ${minor:-0} >= $4))) ||
    fail "$1 ${major:-?}.${minor:-?} is here, $3.$4 or newer is needed"
}

lacking() {
  local pair
  for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
  done
  # Debian keeps what `python3 -m venv` needs in a package of its own.
  if [[ $wanted == *"$python"* ]] && ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    echo python3-venv
  fi
  # librdkafka is built from source, with TLS.
  pkg-config --exists openssl 2>/dev/null || echo libssl-dev
  # Without it no client can trust a registry.
  [[ -e /etc/ssl/certs/ca-certificates.crt ]] || echo ca-certificates
}

command -v cargo >/dev/null || fail "Rust 1.95 or newer is needed (rustup, or your distribution's packages)"
at_least Rust "$(rustc --version | version)" 1 95

mapfile -t missing < <(lacking)
if ((${#missing[@]})); then
  command -v apt-get >/dev/null || fail "please install: ${missing[*]}"
  as_root=()
  if [[ $(id -u) != 0 ]]; then
    sudo -n true 2>/dev/null || fail "please run: sudo apt-get install -y ${missing[*]}"
    as_root=(sudo)
  fi
  echo "tidegate: installing ${missing[*]}"

  # A package must not start a server: ours are started by the tests, on free ports.
  guard=/usr/sbin/policy-rc.d
  if [[ ! -e $guard ]]; then
    trap '"${as_root[@]}" rm -f "$guard"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin "$guard"
  fi
  apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
  "${apt[@]}" update
  if ! "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null; then
    fail "apt-get could not install ${missing[*]} (Ubuntu has Chromium only as a snap: install a" \
      "browser whose command is 'chromium' yourself)"
  fi
  if [[ " ${missing[*]} " == *" redis-server "* ]] && command -v systemctl >/dev/null; then
    "${as_root[@]}" systemctl disable --quiet redis-server 2>/dev/null || true
  fi
  mapfile -t missing < <(lacking)
  ((${#missing[@]} == 0)) || fail "still missing after the installation: ${missing[*]}"
fi

if [[ $wanted == *"$python"* ]]; then
  at_least Python "$(python3 --version | version)" 3 10
fi
if [[ $wanted == *"$parts"* ]]; then
  at_least Java "$(java -version 2>&1 | version)" 17 0 # Kafka 4
  at_least Redis "$(redis-server --version | version)" 7 0
fi
