#!/usr/bin/env bash
# Sets up, builds and runs the services.
#   scripts/run.sh a [flags...]      Service A, in a terminal of its own; its flags: scripts/run.sh a --help
#   scripts/run.sh b [flags...]      Service B, in another one
#   scripts/run.sh                   both in one, until Ctrl+C; env PORT_A (8080) and PORT_B (8081)
#   scripts/run.sh faulty-upstream [flags...] MODE
#                                    one that misbehaves in Service A's place; its modes: ... --list
set -euo pipefail
. "$(dirname "$0")/usage.sh"
cd "$(dirname "$0")/.."

case "${1-}" in
  "") ;;
  a | b)
    service=service-$1
    shift
    scripts/build.sh release "$service" >&2
    exec "build/release/$service/$service" "$@"
    ;;
  faulty-upstream)
    scripts/build.sh release faulty-upstream >&2
    shift
    exec build/release/tests/support/faulty-upstream "$@"
    ;;
  *) usage >&2; exit 2 ;;
esac

scripts/build.sh release service-a service-b

port_a=${PORT_A:-8080}
port_b=${PORT_B:-8081}
colour_a='' colour_b='' plain=''
if [[ -t 1 ]]; then export LOG_FORMAT=${LOG_FORMAT:-text}; fi
if [[ -t 1 && -z ${NO_COLOR-} && ${TERM-} != dumb ]]; then
  colour_a=$'\e[36m' colour_b=$'\e[35m' plain=$'\e[0m'
  export CLICOLOR_FORCE=1  # their stdout is a pipe, but what comes out of it is a terminal
fi

echo
echo "Service A [A] on port $port_a, Service B [B] on port $port_b. Ctrl+C stops both."
echo "Look at http://127.0.0.1:$port_b/ in a browser, or try, in another terminal:"
echo
echo "    curl \"http://127.0.0.1:$port_b/call-echo?msg=hello\""
echo "    kill \$(pidof service-a)     # and ask again; then scripts/run.sh a${PORT_A:+ --port=$PORT_A} brings it back"
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

# One goes on without the other, which is what they are for. But after 1 or 2: it could not run.
declare -A running=([$pid_a]=a [$pid_b]=b)
result=0
while ! $stopping && ((${#running[@]} > 0 && result == 0)); do
  ended='' code=0
  { wait -n -p ended "${!running[@]}" || code=$?; } 2>/dev/null  # without bash's "Killed"
  if $stopping; then break; fi
  if ((code == 1 || code == 2)); then
    echo "Service ${running[$ended]^} could not run." >&2
    result=1
  else
    echo "Service ${running[$ended]^} has ended with status $code. To start it: scripts/run.sh ${running[$ended]}" >&2
  fi
  unset "running[$ended]"
done

stop() { kill -TERM "${!running[@]}" 2>/dev/null || true; }
stop
# A second Ctrl+C reaches the services too, which then end at once. It cuts a wait short, hence the loop.
trap stop INT TERM HUP
for each in "$pid_a" "$pid_b" "$writer_a" "$writer_b"; do
  while kill -0 "$each" 2>/dev/null; do wait "$each" 2>/dev/null || true; done
done
echo "Both services have ended."
exit "$result"
