# Sourced by each run.sh, from the root of the repository: builds a benchmark and gets what it
# needs. Takes `--release` from the arguments; leaves `programs`, `python`, `corpus`, `opinions`,
# `rest` and `build`.
export TIDEGATE_CACHE="${TIDEGATE_CACHE:-$HOME/.cache/tidegate}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$TIDEGATE_CACHE/target}"
profile=(--profile dev)
programs="$CARGO_TARGET_DIR/debug"
python="$TIDEGATE_CACHE/bench/bin/python"
corpus="$TIDEGATE_CACHE/data/spam-assassin"
opinions="$TIDEGATE_CACHE/data/opinions"
rest=()
for argument in "$@"; do
  case "$argument" in
    --release)
      profile=(--release)
      programs="$CARGO_TARGET_DIR/release"
      ;;
    *) rest+=("$argument") ;;
  esac
done

# Of the workspace, so that the dependencies are those that are built already.
build() {
  cargo build --locked "${profile[@]}" --workspace --bin "$1" --bin tidegate
}
