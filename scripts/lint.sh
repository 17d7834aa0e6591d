#!/usr/bin/env bash
# Checks the form of all C++ files and the sense of all shell scripts; changes nothing.
# To format: clang-format -i FILE
set -euo pipefail
cd "$(dirname "$0")/.."

files() { find . \( -path ./build -o -path ./.git -o -path ./.cache \) -prune -o -type f "$@" -print0; }

result=0
files \( -name '*.cpp' -o -name '*.hpp' \) | xargs -0 clang-format --dry-run -Werror || result=1
files \( -name '*.sh' -o -path ./.ci/run \) | xargs -0 shellcheck || result=1
((result != 0)) || echo "lint: clang-format and shellcheck have nothing to say"
exit "$result"
