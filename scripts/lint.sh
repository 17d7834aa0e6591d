#!/usr/bin/env bash
# Checks the form and the sense of all C++ files and shell scripts, and which folder includes which;
# changes nothing. To format: clang-format -i FILE
#   scripts/lint.sh         some seconds
#   scripts/lint.sh --tidy  and clang-tidy on all that is no test, a minute more
set -euo pipefail
. "$(dirname "$0")/usage.sh"
cd "$(dirname "$0")/.."

result=0
files() { find . \( -path ./build -o -path ./.git -o -path ./.cache \) -prune -o -type f "$@" -print0; }
product() { find common service-a service-b -name "$1" -print0; }
complain() {
  echo "lint: $*" >&2
  result=1
}

files \( -name '*.cpp' -o -name '*.hpp' \) | xargs -0 clang-format --dry-run -Werror || result=1
files \( -name '*.sh' -o -path ./.ci/run \) | xargs -0 shellcheck -x -P SCRIPTDIR || result=1
if grep -L '/usage\.sh"$' scripts/*.sh scripts/bench/*.sh | grep -v usage.sh; then complain "these have no --help"; fi

# Dependencies point one way: services -> common -> common/http -> cpp-httplib.
# keep_out FOLDER WHAT: no file there includes what begins like that.
keep_out() {
  if grep -rnE --include='*.[ch]pp' "#include [\"<]($2)" "$1"; then complain "$1 must not include $2"; fi
}
keep_out common/http 'common/[^/]*"|CLI|nlohmann|prometheus|spdlog'
keep_out common 'service-|tests/'
keep_out service-a 'service-b/|tests/'
keep_out service-b 'service-a/|tests/'

# Each header stands alone. One with a .cpp of its own is the first that this includes.
while IFS= read -r -d '' header; do
  [[ ! -e ${header%.hpp}.cpp ]] || continue
  # shellcheck disable=SC2046  # several words
  c++ -std=c++20 -fsyntax-only -Wall -Wextra -I. $(pkg-config --cflags cpp-httplib) \
    -include "$header" -x c++ /dev/null || complain "$header needs another one before it"
done < <(product '*.hpp')

# accessMoved: takes the arguments of a forwarding call for moved already; clang-tidy knows better.
cppcheck --quiet --error-exitcode=1 --std=c++20 --language=c++ -I. \
  --enable=warning,performance,portability --suppress=accessMoved \
  common service-a service-b || result=1

# The version is CMakeLists.txt's; where it has to be repeated, it is the same.
version=$(sed -n 's/^project(.* VERSION \([0-9.]*\) .*/\1/p' CMakeLists.txt)
if grep -rnE '(service-[ab]:|newTag: |two-services_|VERSION=|version: )[0-9]+\.' deploy scripts README.md | grep -vF "$version"; then
  complain "the version is $version"
fi
grep -qF "## [$version]" CHANGELOG.md || complain "CHANGELOG.md does not know $version"

# The alerts are in one file.
rule=deploy/kubernetes/components/monitoring/prometheus-rule.yaml
diff <(deploy/observability/prometheus-rule.sh) $rule || complain "run deploy/observability/prometheus-rule.sh >$rule"

if [[ ${1-} == --tidy ]]; then
  # Several files at a time (unity build): most of the work is what they include.
  cmake --preset release -B build/tidy -DCMAKE_UNITY_BUILD=ON -DBUILD_TESTING=OFF >/dev/null
  sed -n 's/^ *"file": "\(.*\)",*$/\1/p' build/tidy/compile_commands.json | xargs -P2 -n1 \
    clang-tidy -p build/tidy --quiet --checks=-bugprone-suspicious-include --extra-arg=-Wno-error \
    2> >(grep -v 'warnings\? generated' >&2) || result=1
fi

((result != 0)) || echo "lint: nothing to say"
exit "$result"
