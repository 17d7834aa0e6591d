#!/usr/bin/env bash
# Counts the instructions of a request, log and metrics included, with valgrind's callgrind, and fails
# where there are over 10 % more than budgeted. Unlike time, they depend neither on what else the
# machine does nor on its speed. What the kernel does for a request is not among them.
set -euo pipefail
. "$(dirname "$0")/../usage.sh"
cd "$(dirname "$0")/../.."

budget_a=51000
budget_b=105000
few_requests=100
many_requests=1100

scripts/build.sh release service-a service-b >&2

work=$(mktemp -d)
pids=()
cleanup() {
  if ((${#pids[@]} > 0)); then
    kill "${pids[@]}" 2>/dev/null || true
    wait "${pids[@]}" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap cleanup EXIT

# start COMMAND...: its pid is in $pid, the port from its first line in $port.
start() {
  local deadline=$((SECONDS + 30))
  rm -f "$work/log"
  "$@" --port=0 --log-level=info --log-format=logfmt >"$work/log" &
  pid=$!
  pids+=("$pid")
  until port=$(grep -soP 'msg=listening.* port=\K\d+' "$work/log"); do
    if ((SECONDS > deadline)) || ! kill -0 "$pid" 2>/dev/null; then
      echo "instructions: $* does not start" >&2
      exit 1
    fi
    sleep 0.05
  done
}

# live REQUESTS TARGET COMMAND...: a service from its start to its stop, asked over one connection; what
# it took is in $total.
live() {
  local requests=$1 target=$2 answers
  shift 2
  start valgrind -q --tool=callgrind --callgrind-out-file="$work/callgrind" "$@"
  answers=$(curl -s --noproxy '*' --max-time 60 -o "$work/answer" -w '%{http_code}\n' \
    "http://127.0.0.1:$port$target#[1-$requests]" | grep -c '^200$')
  if ((answers != requests)); then
    echo "instructions: $answers of $requests requests were answered with 200" >&2
    exit 1
  fi
  kill "$pid"
  wait "$pid"
  unset 'pids[-1]'
  total=$(sed -n 's/^totals: //p' "$work/callgrind")
}

# share CLASS: what CLASS::request() and all that it calls had of a request in the last life.
share() {
  callgrind_annotate --inclusive=yes --threshold=100 "$work/callgrind" |
    awk -v name="common::$1::request(" -v requests="$many_requests" '
      !sum && index($0, name) { gsub(",", "", $1); sum = $1 }
      END { print sum ? int(sum / requests) : "unknown" }'
}

# check BUDGET TARGET COMMAND...: start and stop fall out of the difference of two lives.
result=0
check() {
  local budget=$1 few each
  shift
  live "$few_requests" "$@"
  few=$total
  live "$many_requests" "$@"
  each=$(((total - few) / (many_requests - few_requests)))
  echo "$1: $each instructions a request, $budget budgeted;" \
    "of them for the log: $(share Log), for metrics: $(share Metrics)"
  if ((each * 10 > budget * 11)); then
    echo "$1: OVER THE BUDGET by more than 10 %" >&2
    result=1
  fi
}

check "$budget_a" "/echo?msg=hello" build/release/service-a/service-a
start build/release/service-a/service-a
check "$budget_b" "/call-echo?msg=hello" build/release/service-b/service-b \
  --service-a-url="http://127.0.0.1:$port" --timeout=10s
((result == 0))
