#!/usr/bin/env bash
# Trains the zoo: small mixtures of experts from scratch, once, into build/zoo. What is there already is kept; an interrupted
# run goes on. zoo/run.sh BINARY [NAME...]; ZOO_DATA is a folder with gsm8k/ and wikitext-2/ (texts.py).
set -euo pipefail
cd "$(dirname "$0")/../.."

mixwright=$(realpath "$1")
shift
root=$PWD
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(shared16 many64 chained16)
data=${ZOO_DATA:-$(dirname "$root")/shared/data}

mkdir -p build/zoo
if [ ! -e build/zoo/texts/tokenizer/tokenizer.json ]; then
  build/venv/bin/python tools/zoo/texts.py build/zoo/texts --data "$data"
fi
cd build/zoo
for name in "${names[@]}"; do
  [ -e "$name/config.json" ] && continue
  resume=()
  [ -e "$name.training/state.safetensors" ] && resume=(--resume)
  "$mixwright" train "$root/tools/zoo/$name.yaml" "$name" "${resume[@]}"
done
for name in "${names[@]}"; do
  printf '%s\n' "$name"
  "$mixwright" eval "$name" --task ppl:texts/held_out.jsonl --ctx 256 --limit 32768
done
