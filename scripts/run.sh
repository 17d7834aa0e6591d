#!/usr/bin/env bash
# Sets up, builds and runs the services.
#   scripts/run.sh               both, until Ctrl+C; env PORT_A (8080) and PORT_B (8081)
#   scripts/run.sh a [flags...]  only Service A, for a terminal of its own; flags: scripts/run.sh a --help
#   scripts/run.sh b [flags...]  only Service B
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
}

case "${1-}" in
  "") ;;
  a | b)
    service=service-$1
    shift
    scripts/build.sh release "$service" >&2
    exec "build/release/$service/$service" "$@"
    ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

scripts/build.sh release service-a service-b

port_a=${PORT_A:-8080}
port_b=${PORT_B:-8081}
colour_a='' colour_b='' plain=''
if [[ -t 1 && -z ${NO_COLOR-} ]]; then
  colour_a=$'\e[36m' colour_b=$'\e[35m' plain=$'\e[0m'
fi

echo
echo "Service A [A] on port $port_a, Service B [B] on port $port_b. Ctrl+C stops both."
echo "Try, in another terminal:"
echo
echo "    curl \"http://127.0.0.1:$port_a/echo?msg=hello\""
echo "    curl \"http://127.0.0.1:$port_b/call-echo?msg=hello\""
echo "    curl -i \"http://127.0.0.1:$port_b/health\""
echo

stopping=false
trap 'stopping=true' INT TERM HUP

# start PREFIX COMMAND...: runs it with PREFIX before each line; its pid is in $pid, the pid of the one
# who writes the lines in $writer. A session of its own (setsid) keeps the terminal's Ctrl+C from the
# service, which takes a second signal as "at once"; the writer ignores it, to write the last lines.
start() {
  local prefix=$1 out
  shift
  exec {out}> >(trap '' INT TERM HUP; exec sed -u "s/^/$prefix /")
  writer=$!
  setsid "$@" >&"$out" 2>&1 &
  pid=$!
  exec {out}>&-
}

start "${colour_a}[A]${plain}" build/release/service-a/service-a --port="$port_a"
pid_a=$pid writer_a=$writer
start "${colour_b}[B]${plain}" build/release/service-b/service-b --port="$port_b" \
  --service-a-url="${SERVICE_A_URL:-http://127.0.0.1:$port_a}"
pid_b=$pid writer_b=$writer

result=0
if ! $stopping; then
  ended=''
  { wait -n -p ended "$pid_a" "$pid_b" || result=$?; } 2>/dev/null  # without bash's "Killed"
  if ! $stopping; then
    name="Service B"
    [[ $ended == "$pid_a" ]] && name="Service A"
    echo "$name ended with status $result, stopping the other one" >&2
    result=1
  fi
fi
$stopping && result=0

stop() { kill -TERM "$pid_a" "$pid_b" 2>/dev/null || true; }
stop
# A second Ctrl+C reaches the services too, which then end at once. It cuts a wait short, hence the loop.
trap stop INT TERM HUP
for each in "$pid_a" "$pid_b" "$writer_a" "$writer_b"; do
  while kill -0 "$each" 2>/dev/null; do wait "$each" 2>/dev/null || true; done
done
echo "Both services have ended."
exit "$result"
