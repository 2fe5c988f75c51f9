#!/usr/bin/env bash
# run.sh [SECONDS]: every target for SECONDS with clang's libFuzzer under the address and undefined-behaviour sanitizers.
# What is found lands in build/fuzz/findings; new inputs that reach new code in build/fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
if ! command -v clang++ >/dev/null; then
  echo "fuzz: clang is not installed; ctest still replays fuzz/corpus" >&2
  exit 1
fi
cmake --preset fuzz >build/configure.log 2>&1 || { cat build/configure.log; exit 1; }
cmake --build --preset fuzz -j "$(nproc)"

failed=()
for source in fuzz/fuzz_*.cpp; do
  name=$(basename "$source" .cpp)
  name=${name#fuzz_}
  found=build/fuzz/findings/$name
  grown=build/fuzz/corpus/$name
  mkdir -p "$found" "$grown" "fuzz/corpus/$name"
  echo "== $name, $seconds s"
  # A leak, a second in one input or 256 MB count as findings.
  build/fuzz/bin/fuzz-"$name" -max_total_time="$seconds" -timeout=1 -rss_limit_mb=512 -malloc_limit_mb=256 -max_len=65536 \
    -artifact_prefix="$found/" -print_final_stats=1 "$grown" "fuzz/corpus/$name" 2>"build/fuzz/$name.log" || failed+=("$name")
  grep -E 'stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)' "build/fuzz/$name.log" || tail -20 "build/fuzz/$name.log"
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "fuzz: findings in ${failed[*]} (build/fuzz/findings)" >&2
  exit 1
fi
