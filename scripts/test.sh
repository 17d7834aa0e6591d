#!/usr/bin/env bash
# Sets up, builds and runs all tests. At the end it says how many there were of each label (proof, unit,
# integration, chaos, browser), how long they took, and which were skipped and why.
#   scripts/test.sh [options for ctest...]     such as: -L proof, -R Timeout, --rerun-failed
# env PRESET: the build under test: dev (default), release, asan, tsan. Its unit tests run, and its
# services: the programs that start them as processes are built once, in dev.
# env CI: warnings are errors.
set -euo pipefail
. "$(dirname "$0")/usage.sh"
cd "$(dirname "$0")/.."

preset=${PRESET:-dev}

# g++ 12's thread sanitizer dies with "unexpected memory mapping" where the kernel spreads addresses
# widely. For the build too: it runs the tests to list them.
fixed_addresses=()
if [[ $preset == tsan ]] && setarch -R true 2>/dev/null; then fixed_addresses=(setarch -R); fi
# It would also sleep for a second at the end of each process, which the tests of the drain would see.
if [[ $preset == tsan ]]; then export TSAN_OPTIONS="${TSAN_OPTIONS-} atexit_sleep_ms=0"; fi

# run_tests PRESET [options for ctest...]: ctest tells all but why a test was skipped.
result=0
run_tests() {
  local report
  report=$(mktemp)
  "${fixed_addresses[@]}" ctest --preset "$1" --output-junit "$report" "${@:2}" || result=$?
  # GoogleTest gives the reason behind a line that ends with "Skipped"; other programs in a line.
  awk -F'"' '
    /<testcase / { name = $2; skipped = 0; reason = "" }
    /<skipped/ { skipped = 1 }
    skipped && behind { reason = $0; behind = 0 }
    /: Skipped$/ { behind = 1 }
    skipped && reason == "" && /^[^[]*[Ss]kipped: / { reason = $0; sub(/.*[Ss]kipped: /, "", reason) }
    /<\/testcase>/ && skipped { print "test: skipped " name ": " (reason == "" ? "see its output" : reason) }
  ' "$report"
  rm "$report"
}

scripts/build.sh dev
if [[ $preset == dev ]]; then
  run_tests dev "$@"
  exit "$result"
fi

"${fixed_addresses[@]}" scripts/build.sh "$preset" service-a service-b unit_tests
run_tests "$preset" --no-tests=ignore -L unit "$@"
export SERVICES=$PWD/build/$preset
run_tests dev --no-tests=ignore -L 'integration|chaos|proof' "$@"
exit "$result"
