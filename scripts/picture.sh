#!/usr/bin/env bash
# Draws what a caller of Service B sees while Service A is killed, brought back, hung and continued,
# from a run of the real services: deploy/observability/failure.svg, or the file given. Takes 15 s.
# env PRESET: the build that is shown; release when it is built, otherwise dev.
set -euo pipefail
. "$(dirname "$0")/usage.sh"
cd "$(dirname "$0")/.."

picture=${1:-deploy/observability/failure.svg}
preset=${PRESET:-release}
if [[ -z ${PRESET-} && ! -x build/release/service-b/service-b ]]; then preset=dev; fi
service_a=build/$preset/service-a/service-a
service_b=build/$preset/service-b/service-b
if [[ ! -x $service_a || ! -x $service_b ]]; then
  echo "picture: nothing is built, first run: scripts/build.sh $preset service-a service-b" >&2
  exit 1
fi

work=$(mktemp -d)
pid_a='' pid_b='' pid_caller=''

# end SIGNAL PID: sends it, and waits for the end.
end() {
  kill "-$1" "$2" 2>/dev/null || true
  { wait "$2" || true; } 2>/dev/null
}
cleanup() {
  if [[ -n $pid_caller ]]; then end TERM "$pid_caller"; fi
  if [[ -n $pid_a ]]; then
    kill -CONT "$pid_a" 2>/dev/null || true  # a stopped process does not see the SIGTERM
    end TERM "$pid_a"
  fi
  if [[ -n $pid_b ]]; then end TERM "$pid_b"; fi
  rm -rf "$work"
}
trap cleanup EXIT

# start LOG COMMAND...: its pid is in $pid, the port from its first line in $port.
start() {
  local log=$1 deadline=$((SECONDS + 10))
  shift
  rm -f "$log"  # the line below must not be an earlier start's
  "$@" --host=127.0.0.1 --log-level=info --log-format=logfmt >"$log" &
  pid=$!
  until grep -qs msg=listening "$log"; do
    if ((SECONDS > deadline)); then
      echo "picture: $1 does not start" >&2
      exit 1
    fi
    sleep 0.01
  done
  port=$(sed -n '/msg=listening/{s/.* port=\([0-9]*\).*/\1/p;q}' "$log")
}
start_a() {
  start "$work/a.log" "$service_a" --port="$1" --delay=0s
  pid_a=$pid
}

# mark TIME STATE NAME COMMAND: from that time on Service A is in that state.
mark() { printf '%s\t%s\t%s\t%s\n' "$@" >>"$work/marks.tsv"; }

start_a 0
port_a=$port
start "$work/b.log" "$service_b" --port=0 --service-a-url="http://127.0.0.1:$port_a" --timeout=1s \
  --max-upstream-calls=64
pid_b=$pid

# 100 calls a second, more than the 64 that may wait for A in the one second of the budget.
scripts/picture.py record "$port" 0.01 >"$work/calls.tsv" &
pid_caller=$!
sleep 1  # its own start, and the first connections

mark "$EPOCHREALTIME" runs "A runs" ""
sleep 2
mark "$EPOCHREALTIME" killed "A is dead" "kill -9"
end KILL "$pid_a"
sleep 2.5
start_a "$port_a"
listening=$(sed -n '/msg=listening/{s/^time=\([^ ]*\).*/\1/p;q}' "$work/a.log")
mark "$(date -d "$listening" +%s.%6N)" runs "A is back" "started again"
sleep 2
mark "$EPOCHREALTIME" hung "A hangs" "kill -STOP"
kill -STOP "$pid_a"
sleep 3.5
mark "$EPOCHREALTIME" runs "A goes on" "kill -CONT"
kill -CONT "$pid_a"
sleep 2
mark "$EPOCHREALTIME" end "" ""

kill -TERM "$pid_caller"  # it still awaits the answers to what it has asked
wait "$pid_caller"
pid_caller=''

scripts/picture.py draw "$work/calls.tsv" "$work/marks.tsv" >"$work/picture.svg"
cp "$work/picture.svg" "$picture"
echo "picture: $picture"
