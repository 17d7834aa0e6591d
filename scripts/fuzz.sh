#!/usr/bin/env bash
# Feeds the parsers, and a whole server, with what a fuzzer makes of tests/fuzz/corpus.
#   scripts/fuzz.sh [seconds, 60]
# Builds into build/fuzz, with clang and the address and undefined-behaviour sanitizers. What is found
# stays there: new inputs in build/fuzz/corpus, those that fail in build/fuzz/crashes. Exits with 1
# when there is one that fails.
set -euo pipefail
. "$(dirname "$0")/usage.sh"
cd "$(dirname "$0")/.."

seconds=${1:-60}
if ! [[ $seconds =~ ^[1-9][0-9]*$ ]]; then
  usage >&2
  exit 2
fi

links_a_fuzzer() {
  local folder result=0
  folder=$(mktemp -d)
  echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
    clang++ -fsanitize=fuzzer,address,undefined -x c++ - -o "$folder/a" 2>/dev/null || result=1
  rm -rf "$folder"
  return "$result"
}

if ! links_a_fuzzer; then
  as_root=()
  if [[ $(id -u) != 0 ]]; then as_root=(sudo); fi
  "${as_root[@]}" apt-get update -qq
  # Debian 12 has the runtime apart from the compiler; elsewhere it comes under another number.
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends clang
  version=$(clang++ -dumpversion)
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "libclang-rt-${version%%.*}-dev"
  links_a_fuzzer
fi

build=build/fuzz
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_COMPILER=clang++ \
  -DPROJECT_FUZZ=ON -DCMAKE_UNITY_BUILD=ON -DPROJECT_SANITIZE=address,undefined,fuzzer-no-link \
  >"$build.log" 2>&1 ||
  { cat "$build.log"; exit 1; }
cmake --build "$build" --target request_head_fuzz response_head_fuzz server_fuzz

export UBSAN_OPTIONS=print_stacktrace=1
targets=(request_head response_head server)

fuzz() {
  local target=$1 longest=20000 seeds=tests/fuzz/corpus/request_head
  if [[ $target == response_head ]]; then
    longest=70000 seeds=tests/fuzz/corpus/response_head
  fi
  mkdir -p "$build/corpus/$target" "$build/crashes/$target"
  # The first folder takes what is new.
  "$build/tests/fuzz/${target}_fuzz" -max_total_time="$seconds" -max_len="$longest" -timeout=25 \
    -dict=tests/fuzz/http.dict -artifact_prefix="$build/crashes/$target/" -print_final_stats=1 \
    "$build/corpus/$target" "$seeds" >"$build/$target.log" 2>&1
}

# All at the same time.
runs=()
for target in "${targets[@]}"; do
  fuzz "$target" &
  runs+=($!)
done

failed=0
for i in "${!targets[@]}"; do
  target=${targets[i]}
  log=$build/$target.log
  result=passed
  wait "${runs[i]}" || result=FAILED
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  printf '%-17s %s: %s executions in %s s, %s inputs kept\n' "$target" "$result" \
    "${executions:-0}" "$seconds" "$(find "$build/corpus/$target" -type f | wc -l)"
  if [[ $result == FAILED ]]; then
    failed=1
    tail -n 60 "$log"
    echo "see $log and $build/crashes/$target"
  fi
done
exit "$failed"
