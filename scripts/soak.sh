#!/usr/bin/env bash
# Load, faults and hostile clients together against the real services. Prints answers by kind, the
# slowest, memory, files and threads every ten seconds; fails if anything was not as it must be.
#   scripts/soak.sh [minutes]     2 unless told otherwise
# env PRESET: the build of the services, release by default; asan and tsan work too.
# env CHAOS_SEED: repeats a run.
set -euo pipefail
. "$(dirname "$0")/usage.sh"
cd "$(dirname "$0")/.."

preset=${PRESET:-release}

# g++ 12's thread sanitizer dies with "unexpected memory mapping" where the kernel spreads addresses
# widely.
fixed_addresses=()
if [[ $preset == tsan ]] && setarch -R true 2>/dev/null; then fixed_addresses=(setarch -R); fi

scripts/build.sh "$preset" service-a service-b
scripts/build.sh dev chaos_tests
SOAK_MINUTES=${1:-2} SERVICES=$PWD/build/$preset exec "${fixed_addresses[@]}" \
  build/dev/tests/chaos_tests --gtest_filter='Soak.*'
