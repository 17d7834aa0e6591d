#!/usr/bin/env bash
# Breaks the services in one way after the other, as tests/mutations/list.txt says, and checks that a test
# notices. A copy in build/mutations is broken, never this folder. Half a minute each; the first time some
# minutes more, to build.
#   scripts/mutate.sh [TEXT]     only those whose name contains TEXT
# Exit code 1: some were not noticed, or no longer fit the code.
set -euo pipefail
. "$(dirname "$0")/usage.sh"
cd "$(dirname "$0")/.."

copy=$PWD/build/mutations
scripts/build.sh dev
mkdir -p "$copy/source"
# What has not changed keeps its time, so that little is built; what was broken last time is built anew.
git ls-files -z --cached --others --exclude-standard |
  tar --create --null --files-from=- --ignore-failed-read 2>/dev/null | tar --extract --directory="$copy/source"
if [[ -e $copy/broken ]]; then (cd "$copy/source" && xargs touch <"$copy/broken"); fi
cmake -S "$copy/source" -B "$copy/build" -G Ninja -DCMAKE_BUILD_TYPE=Debug >/dev/null

build() { cmake --build "$copy/build" --target service-a service-b "$@" >"$copy/log" 2>&1; }
if ! build unit_tests; then
  cat "$copy/log"
  exit 1
fi
rm -f "$copy/broken"

# notices PROGRAM FILTER: whether one of these tests fails, and there are any.
notices() {
  local tests=build/dev/tests/$1_tests
  [[ $1 != unit ]] || tests=$copy/build/tests/unit_tests
  if SERVICES=$copy/build timeout 300 "$tests" --gtest_filter="$2" --gtest_fail_fast >"$copy/log" 2>&1; then
    return 1
  fi
  ! grep -q '^\[==========\] Running 0 tests' "$copy/log"
}

count=0
missed=0
complain() {
  printf 'mutate: %-15s %s\n' "$1" "$name"
  missed=$((missed + 1))
}
while IFS= read -r name; do
  [[ -n $name && $name != '#'* ]] || continue
  read -r file
  IFS= read -r expression
  read -r program filter
  [[ $name == *"${1-}"* ]] || continue
  count=$((count + 1))
  target=()
  [[ $program != unit ]] || target=(unit_tests)
  echo "$file" >>"$copy/broken"
  sed -E "$expression" "$file" >"$copy/source/$file"
  if cmp -s "$file" "$copy/source/$file"; then
    complain 'DOES NOT APPLY'
  elif ! build "${target[@]}"; then
    complain 'DOES NOT BUILD'
  elif notices "$program" "$filter"; then
    printf 'mutate: %-15s %s\n' noticed "$name"
  else
    complain 'NOT NOTICED'
  fi
  cp "$file" "$copy/source/$file"
done <tests/mutations/list.txt

echo "mutate: $count mutations, $missed not noticed or not fitting"
((count > 0 && missed == 0))
