#!/usr/bin/env bash
# Sets up and builds one preset into build/<preset>.
#   scripts/build.sh [preset [targets...]]     presets: release (default), dev, asan, tsan
# env CI: warnings are errors, but under sanitizers.
set -euo pipefail
cd "$(dirname "$0")/.."

preset=${1:-release}
shift || true
targets=()
(($# == 0)) || targets=(--target "$@")
werror=OFF
# Sanitizers make g++ 12 warn of what is not there.
[[ -z ${CI-} || $preset == ?san ]] || werror=ON

# Two terminals may start at the same moment (run.sh a, run.sh b): the second waits for the first.
mkdir -p "build/$preset"
if command -v flock >/dev/null; then
  exec {lock}>"build/$preset/.lock"
  flock "$lock"
fi
scripts/setup.sh
cmake --preset "$preset" -DPROJECT_WERROR="$werror"
cmake --build --preset "$preset" "${targets[@]}"
