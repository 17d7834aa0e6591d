#!/usr/bin/env bash
# Replays success and failure with real processes, says what one sees, and fails if reality differs.
#   scripts/demo.sh           without a stop, 10 s
#   scripts/demo.sh --step    waits for Enter before each step
# env PORT_A, PORT_B: ports, free ones by default. env PRESET: the build that is shown, release by default.
set -euo pipefail
. "$(dirname "$0")/usage.sh"
cd "$(dirname "$0")/.."

step=false
case "$*" in
  "") ;;
  --step) step=true ;;
  *) usage >&2; exit 2 ;;
esac

preset=${PRESET:-release}
scripts/build.sh "$preset" service-a service-b faulty-upstream httplib-client
service_a=build/$preset/service-a/service-a
service_b=build/$preset/service-b/service-b
support=build/$preset/tests/support

work=$(mktemp -d)
pid_a='' pid_b='' number=0
bold='' plain=''
if [[ -t 1 && -z ${NO_COLOR-} ]]; then bold=$'\e[1m' plain=$'\e[0m'; fi

# end SIGNAL PID: what the process exited with is in $exit_code.
end() {
  exit_code=0
  kill "-$1" "$2" 2>/dev/null || true
  { wait "$2" || exit_code=$?; } 2>/dev/null
}

cleanup() {
  if [[ -n $pid_a ]]; then
    kill -CONT "$pid_a" 2>/dev/null || true  # a stopped process does not see the SIGTERM
    end TERM "$pid_a"
  fi
  if [[ -n $pid_b ]]; then end TERM "$pid_b"; fi
  rm -rf "$work"
}
trap cleanup EXIT

# next TITLE WHAT_WILL_COME
number_of_step=0
next() {
  number_of_step=$((number_of_step + 1))
  printf '\n%s%d. %s%s\n  %s\n' "$bold" "$number_of_step" "$1" "$plain" "$2"
  if $step; then
    printf '  [Enter]'
    read -r || echo
  fi
}
seen() { echo "  You saw: $*"; }
fail() {
  echo "NOT AS EXPECTED: $*" >&2
  exit 1
}
check() {  # check WHAT COMMAND...
  local what=$1
  shift
  "$@" || fail "$what"
  echo "  ok: $what"
}

# within_3s COMMAND...: tries until it succeeds.
within_3s() {
  local end=$((SECONDS + 3))
  until "$@"; do
    ((SECONDS <= end)) || return 1
    sleep 0.02
  done
}

# start LOG COMMAND...: its pid is in $pid, the port from its first line in $port.
start() {
  local log=$1
  shift
  rm -f "$log"  # the start line of an earlier run must not be taken for this one's
  "$@" --host=127.0.0.1 --log-level=info --log-format=logfmt >"$log" &
  pid=$!
  if ! within_3s grep -qs msg=listening "$log"; then fail "$1 does not start"; fi
  port=$(sed -n '/msg=listening/{s/.* port=\([0-9]*\).*/\1/p;q}' "$log")
  echo "  ${1##*/} runs: pid $pid, port $port"
}
start_a() {
  start "$work/a.log" "$service_a" --port="$port_a" --delay=0s
  pid_a=$pid port_a=$port
}

# ask PORT TARGET: shows the call and its answer; leaves $status, $took (ms) and $body, and its log
# lines on both sides, which one request id ties together.
ask() {
  local url="http://127.0.0.1:$1$2" id
  number=$((number + 1))
  id=demo-$number
  echo "  \$ curl -i \"$url\""
  IFS=' ' read -r status took < <(
    curl -sS --noproxy '*' --max-time 10 -H "X-Request-ID: $id" -D "$work/head" -o "$work/body" \
      -w '%{http_code} %{time_total}\n' "$url") || true
  [[ $status != 000 ]] || fail "curl got no answer"
  took=$(awk -v s="$took" 'BEGIN { printf "%d", s * 1000 }')
  body=$(<"$work/body")
  sed -n 's/\r$//; /^HTTP\|^Retry-After/s/^/    /p' "$work/head"
  echo "    $body"
  echo "  after $took ms; in the log of service-b:"
  within_3s grep -q "request_id=$id" "$work/b.log" || fail "there is no log line of $id"
  grep "request_id=$id" "$work/b.log" | sed 's/^/    /'
}
ask_for_hello() { ask "$port_b" "/call-echo?msg=hello"; }
check_success() {
  check "status 200" [ "$status" = 200 ]
  check "both services in the answer" [ "$body" = '{"service_a":{"echo":"hello"},"service_b":"ok"}' ]
}
check_failure() {  # check_failure REASON
  check "status 503, not a crash" [ "$status" = 503 ]
  check "reason $1 in the answer" grep -q "\"reason\":\"$1\"" "$work/body"
  check "level=error and reason=$1 in the log" \
    grep -q "level=error .* status=503 .* reason=$1 .*request_id=demo-$number" "$work/b.log"
}

check_timeout() {
  check_failure timeout
  check "not before 1 s" [ "$took" -ge 990 ]
  check "and not much later: in less than 1.5 s" [ "$took" -lt 1500 ]
}

next "Two processes." \
  "Both services start, each with a process id and a port of its own. They share nothing but HTTP."
port_a=${PORT_A:-0}
start_a
start "$work/b.log" "$service_b" --port="${PORT_B:-0}" --timeout=1s \
  --service-a-url="http://127.0.0.1:$port_a"
pid_b=$pid port_b=$port

next "Success." "service-b will ask service-a. The answer will hold both."
ask_for_hello
check_success
echo "  the same request in the log of service-a:"
within_3s grep -q "request_id=demo-$number" "$work/a.log" || fail "service-a did not log it"
grep "request_id=demo-$number" "$work/a.log" | sed 's/^/    /'
seen "one call, two processes, two log lines with the same request_id."

next "service-a is killed." "kill -9 $pid_a: nobody will listen on its port. service-b will say 503, at once."
end KILL "$pid_a"
pid_a=''
ask_for_hello
check_failure connection_refused
check "at once: in less than 500 ms" [ "$took" -lt 500 ]
seen "a refused connection is quick news. The reason is in the answer and in the log."

next "service-b itself is well." "Its own /health will say so: it does not depend on service-a."
ask "$port_b" /health
check "status 200" [ "$status" = 200 ]
check "the same process as before" kill -0 "$pid_b"
seen "the failure of one service is not the failure of the other."

next "service-a is back." "It will start on the same port. service-b needs no restart."
start_a
ask_for_hello
check_success
seen "service-b connected anew by itself."

next "service-a hangs." \
  "kill -STOP $pid_a: the kernel still takes connections for it, but nobody answers. service-b will give up after 1 s."
kill -STOP "$pid_a"
ask_for_hello
check_timeout
seen "silence is no news. Without a time limit service-b would wait, too, and so would whoever asked it."

next "service-a goes on." "kill -CONT $pid_a: the next call will succeed."
kill -CONT "$pid_a"
ask_for_hello
check_success
seen "a process that hung had lost nothing. From outside one cannot tell it from a dead one, only from how long it takes."

next "service-a is asked to stop." "SIGTERM: it will finish what it does, and exit with 0."
end TERM "$pid_a"
pid_a=''
check "service-a exited with 0" [ "$exit_code" = 0 ]
sed 's/^/    /' <(tail -n 1 "$work/a.log")
seen "a stop that was asked for is no failure. The exit code and the last log line tell."

next "A service-a that drips." "In its place: faulty-upstream, which answers with a byte every 100 ms, never silent and never done.
  First cpp-httplib's client as it comes will ask it, with all its timeouts set to 1 s. Then service-b will."
"$support/faulty-upstream" --port="$port_a" dripped-body >"$work/drip.log" &
pid_a=$!
within_3s grep -qs listening "$work/drip.log" || fail "faulty-upstream does not start"
echo "  \$ timeout 6 httplib-client http://127.0.0.1:$port_a"
exit_code=0
timeout 6 "$support/httplib-client" "http://127.0.0.1:$port_a" || exit_code=$?
check "no answer after 6 s: ended from outside" [ "$exit_code" = 124 ]
ask_for_hello
check_timeout
seen "a timeout for each read begins anew with each byte. One deadline for the whole call does not."

next "The end." "service-b has run all the time. SIGTERM: it will exit with 0."
end TERM "$pid_b"
pid_b=''
check "service-b exited with 0" [ "$exit_code" = 0 ]

echo
echo "All as expected."
