#!/usr/bin/env bash
# Sets up and builds one preset into build/<preset>. Shows one line that counts, and else only errors and
# warnings. The first build of both services takes a minute or two, that of the tests some minutes more.
#   scripts/build.sh [preset [targets...]]     presets: release (default), dev, asan, tsan, package
# env CI: warnings are errors, but under sanitizers.
set -euo pipefail
. "$(dirname "$0")/usage.sh"
cd "$(dirname "$0")/.."

preset=${1:-release}
shift || true
if ! grep -q "\"configurePreset\": \"$preset\"" CMakePresets.json; then
  usage >&2
  exit 2
fi
targets=()
(($# == 0)) || targets=(--target "$@")
werror=OFF
# Sanitizers make g++ 12 warn of what is not there.
[[ -z ${CI-} || $preset == ?san ]] || werror=ON

# Two terminals may start at the same moment (run.sh a, run.sh b).
mkdir -p "build/$preset"
if command -v flock >/dev/null; then
  exec {lock}>"build/$preset/.lock"
  if ! flock -n "$lock"; then
    echo "build: another terminal builds $preset, waiting for it"
    flock "$lock"
  fi
fi
scripts/setup.sh

# Shows a step in place of the one before, and all that is no step: errors and warnings.
show_steps() {
  local line step='' clear=''
  if [[ -t 1 ]]; then clear=$'\r\e[K'; fi
  while IFS= read -r line; do
    case $line in
      '[0/'* | '-- '* | 'ninja: no work to do.') ;;  # CMake once more
      '['*/*'] '*)
        if [[ -n $clear || -z $step ]]; then  # elsewhere than in a terminal only the first
          step=${line%%']'*}
          printf '%sbuild: %s, step %s, %s s' "$clear" "$preset" "${step#'['}" "$SECONDS"
          [[ -n $clear ]] || echo
        fi
        ;;
      *) printf '%s%s\n' "$clear" "$line" ;;
    esac
  done
  printf '%s' "$clear"
}

if ! cmake --preset "$preset" -DPROJECT_WERROR="$werror" >"build/$preset/configure.log" 2>&1; then
  cat "build/$preset/configure.log"
  exit 1
fi
cmake --build --preset "$preset" "${targets[@]}" 2>&1 | show_steps
echo "build: $preset is up to date after $SECONDS s"
