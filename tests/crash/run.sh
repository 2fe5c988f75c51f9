#!/usr/bin/env bash
# run.sh MIXWRIGHT [KILLS]: the long form of the crash test, KILLS times ten on the bare writer and KILLS on `relayout`,
# then the loop that makes every system call of a write fail in turn.
set -euo pipefail
cd "$(dirname "$0")/../.."

binary=$1
kills=${2:-200}
bin=$(dirname "$binary")
python=build/venv/bin/python
model=$(mktemp -d)
trap 'rm -rf "$model"' EXIT

echo "== the bare writer"
"$python" tests/crash/kill_harness.py --writer "$bin/copy-model" --kills $((kills * 10)) --seed $RANDOM
echo "== mixwright relayout"
PYTHONPATH=tests/oracle "$python" -c "import sys, tiny_models; tiny_models.save_variant('mixtral', sys.argv[1])" "$model/moe"
"$python" tests/crash/kill_harness.py --relayout "$binary" --model "$model/moe" --kills "$kills" --seed $RANDOM
echo "== every system call fails in turn"
"$bin/test-checkpoint" --gtest_brief=1 --gtest_filter='Faults.*'
