#!/usr/bin/env bash
# Sets up, builds and runs all tests.
#   scripts/test.sh [options for ctest...]     such as: -L unit, -R Timeout, --rerun-failed
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

scripts/build.sh dev
if [[ $preset == dev ]]; then exec ctest --preset dev -j 2 "$@"; fi

"${fixed_addresses[@]}" scripts/build.sh "$preset" service-a service-b unit_tests
"${fixed_addresses[@]}" ctest --preset "$preset" -j 2 --no-tests=ignore -L unit "$@"
SERVICES=$PWD/build/$preset exec "${fixed_addresses[@]}" \
  ctest --preset dev -j 2 --no-tests=ignore -L 'integration|chaos' "$@"
