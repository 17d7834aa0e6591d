# shellcheck shell=bash
# Sourced by the scripts. --help prints the comment at the top of the script, and does nothing else.

usage() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"; }

if [[ ${1-} == -h || ${1-} == --help ]]; then
  usage
  exit 0
fi

# in_place NAME: shows each line that it reads in one line of the terminal; elsewhere nothing.
in_place() {
  local line
  while IFS= read -r line; do
    [[ ! -t 1 ]] || printf '\r\e[K%s: %.60s' "$1" "$line"
  done
  [[ ! -t 1 ]] || printf '\r\e[K'
}
