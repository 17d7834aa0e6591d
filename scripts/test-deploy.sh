#!/usr/bin/env bash
# Tries what brings the services onto machines, with the real tools. Needs root, and says what it skips.
#   scripts/test-deploy.sh [section...]     all of them unless some are named
# Sections:
#   package     builds the .deb, installs it in a clean Debian, boots that and uses its units
#   containers  builds both images with Podman, runs the compose file on it, kills, hangs and stops what runs there
#   manifests   what the manifests for Kubernetes must say; test-kubernetes.sh puts them on a cluster
set -euo pipefail
. "$(dirname "$0")/usage.sh"
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
skip() { echo "skipped: $*"; }

# check WHAT COMMAND...: prints what was expected, and ends the script if it did not hold.
check() {
  local what=$1
  shift
  if "$@"; then
    echo "ok: $what"
  else
    echo "FAILED: $what: $*"
    exit 1
  fi
}

# eventually COMMAND...: whether it succeeds within 20 s.
eventually() {
  local deadline=$((SECONDS + 20))
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

# logged FILE COMMAND...: its output is shown only where it fails.
logged() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 && return
  cat "$log"
  echo "FAILED: $*"
  exit 1
}

# --- package

# Runs in the Debian that was booted. Its network is a loopback of its own.
use_units() {
  set -euo pipefail
  trap '(($? == 0)) || journalctl --no-pager -o cat -u service-a -u service-b | tail -n 30' EXIT
  # shellcheck disable=SC2317  # check and eventually call these
  call() { [[ $(curl -s -o /tmp/body -w '%{http_code}' "$1") == "$2" ]]; }
  # shellcheck disable=SC2317
  logged_json() { journalctl -o cat -u service-a | grep '^{.*"msg":"listening"' >/dev/null; }
  # shellcheck disable=SC2317
  exposed() { systemd-analyze security --no-pager --threshold=19 "$1" | tail -n 1; }
  # shellcheck disable=SC2317
  restarted() { [[ $(property service-a NRestarts) == 1 ]]; }
  # shellcheck disable=SC2317
  given_up() { [[ $(property service-b ActiveState) == failed ]]; }
  logged_requests() { journalctl -o cat -u service-a | grep -c '"endpoint":"/echo"'; }
  # shellcheck disable=SC2317
  all_logged() { [[ $(logged_requests) -ge $1 ]]; }
  property() { systemctl show --value -p "$2" "$1"; }
  echo_url='http://127.0.0.1:8080/echo?msg=hello'
  call_url='http://127.0.0.1:8081/call-echo?msg=hello'
  units=(/lib/systemd/system/service-{a,b}.{service,socket})

  check "systemd-analyze verify has nothing to say" \
    test -z "$(systemd-analyze verify --man=no "${units[@]}" 2>&1)"
  for service in service-a service-b; do
    check "that is less than 2.0" exposed "$service"
  done

  check "nothing runs after the installation" test "$(service-a --check 2>/dev/null; echo $?)" = 1
  sed -i 's/^#LOG_FORMAT=.*/LOG_FORMAT=json/' /etc/default/service-a
  systemctl start service-a service-b # which wait for READY=1
  check "service-a is healthy" service-a --check
  check "service-b is healthy" service-b --check
  check "/etc/default is read" eventually logged_json
  check "a call succeeds" call "$call_url" 200
  check "the processes have no capabilities" \
    grep -q '^CapBnd:[[:space:]]*0*$' "/proc/$(property service-a MainPID)/status"
  systemctl stop service-a
  check "without service-a it is a 503" call "$call_url" 503
  check "it ended cleanly" test "$(property service-a Result)" = success
  systemctl start service-a
  check "with service-a it is a 200 again" call "$call_url" 200

  before=$(logged_requests)
  curl -s -o /dev/null "http://127.0.0.1:8080/echo?msg=[1-60000]"
  check "journald has a line of each of 60,000 requests" eventually all_logged $((before + 60000))

  systemctl stop service-b
  sed -i 's/^#PORT=.*/PORT=80/' /etc/default/service-b
  mkdir -p /run/systemd/system/service-{a,b}.service.d
  printf '[Unit]\nStartLimitBurst=5\n' >/run/systemd/system/service-b.service.d/soon.conf
  systemctl daemon-reload
  check "without the right to its port it can't start" eval '! systemctl start service-b 2>/dev/null'
  check "which is tried again for a while, and then no more" eventually given_up
  sed -i 's/^PORT=.*/#PORT=8081/' /etc/default/service-b
  systemctl reset-failed service-b
  systemctl start service-b

  printf '[Service]\nWatchdogSec=1\n' >/run/systemd/system/service-a.service.d/watchdog.conf
  systemctl daemon-reload
  systemctl restart service-a
  sleep 3
  check "the watchdog leaves alone what works" test "$(property service-a NRestarts)" = 0
  kill -STOP "$(property service-a MainPID)"
  check "the watchdog restarts what hangs" eventually restarted
  check "and it works again" eventually service-a --check

  systemctl stop service-a
  systemctl start service-a.socket
  check "nothing runs yet" test "$(property service-a ActiveState)" = inactive
  check "the first client starts it" call "$echo_url" 200
  # A client as each comes, while the service is restarted: none is refused, none is lost.
  touch /tmp/going
  (
    failed=0 calls=0
    while [[ -e /tmp/going ]]; do
      call "$echo_url" 200 || ((failed += 1))
      ((calls += 1))
    done
    echo "$failed of $calls" >/tmp/calls
  ) &
  for _ in 1 2 3; do
    sleep 0.3
    systemctl restart service-a
  done
  rm /tmp/going
  wait
  check "a restart costs no client of the socket a failure ($(cat /tmp/calls))" grep -q '^0 of' /tmp/calls
  systemctl enable -q service-a.socket service-b
}

package() {
  if ((EUID != 0)); then
    skip "package: debootstrap and systemd-nspawn need root"
    return
  fi
  scripts/setup.sh deploy
  say "the package is built"
  scripts/build.sh package
  logged build/package.log cpack --config build/package/CPackConfig.cmake -B build/package
  local package root=build/debian-root
  package=$(ls build/package/two-services_*.deb)
  dpkg --field "$package" Package Version Depends
  # There is no public address of a maintainer, and the log of git is the changelog.
  check "lintian has nothing to say" lintian --allow-root --fail-on error,warning \
    --suppress-tags bogus-mail-host,no-changelog "$package"

  say "it is installed in a clean Debian"
  if [[ ! -e $root/complete ]]; then # kept for the next run
    rm -rf "$root"
    logged "$root.log" debootstrap --variant=minbase --include=systemd,curl \
      "$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)" "$root"
    touch "$root/complete"
  fi
  work=$(mktemp -d)
  trap 'umount "$work/machine" && rm -rf "$work"' EXIT
  mkdir "$work"/{upper,overlay,machine}
  mount -t overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/overlay" overlay "$work/machine"
  cp "$package" "$work/machine/package.deb"
  logged "$work/update.log" chroot "$work/machine" apt-get -q update
  logged "$work/install.log" chroot "$work/machine" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q install -y --no-install-recommends /package.deb
  check "the programs run there" chroot "$work/machine" service-b --version
  check "the man page is there" test -s "$work/machine/usr/share/man/man1/service-a.1.gz"

  say "it boots, and systemd runs the units"
  {
    echo '#!/bin/bash'
    declare -f check eventually use_units
    echo use_units
  } >"$work/machine/use-units"
  chmod 755 "$work/machine/use-units"
  check "all of that" systemd-nspawn --quiet --register=no --keep-unit --private-network --boot -D "$work/machine" \
    quiet systemd.log_level=emerg systemd.run=/use-units systemd.run_success_action=exit systemd.run_failure_action=exit </dev/null

  say "it is removed"
  logged "$work/purge.log" chroot "$work/machine" apt-get -q purge -y two-services
  check "nothing of it is left" \
    test -z "$(find "$work/machine"/{etc,usr,var/lib} -name '*service-[ab]*' -print -quit)"
}

# --- containers

# Podman with its images in DIRECTORY, for the next run, limits that a root without CAP_SYS_RESOURCE may set, and runc:
# Debian's crun does not know a machine with both versions of cgroups.
configure_podman() { # configure_podman DIRECTORY
  export CONTAINERS_CONF=$1/containers.conf CONTAINERS_STORAGE_CONF=$1/storage.conf
  printf '[containers]\ndefault_ulimits = ["nofile=%s:%s", "nproc=1024:1024"]\n[engine]\nruntime = "runc"\n' \
    "$(ulimit -Hn)" "$(ulimit -Hn)" >"$CONTAINERS_CONF"
  printf '[storage]\ndriver = "overlay"\ngraphroot = "%s/images"\nrunroot = "%s/run"\n' "$1" "$1" \
    >"$CONTAINERS_STORAGE_CONF"
}

# image NAME COMMAND...: pulls it; where no registry is in reach, COMMAND makes a stand-in.
image() {
  podman image exists "$1" || podman pull -q "$1" 2>/dev/null || {
    echo "no registry is in reach: a stand-in for $1"
    logged "$work/stand-in.log" "${@:2}" "$1"
  }
}
minimal_debian() {
  debootstrap --variant=minbase bookworm "$work/debian"
  tar -C "$work/debian" -c . | podman import - "$1"
}
debian_with_prometheus() {
  printf '%s\n' 'FROM debian:bookworm-slim' \
    'RUN apt-get update && apt-get install -y --no-install-recommends prometheus' \
    'ENTRYPOINT ["prometheus", "--storage.tsdb.path=/tmp"]' | podman build -t "$1" -
}

compose() { docker-compose -p two-services -f deploy/compose.yaml "$@" >>"$work/compose.log" 2>&1; }
of() { podman inspect --format "$2" "two-services_$1_1"; } # of SERVICE FORMAT: a fact of its container
size() { podman image inspect --format '{{.Size}}' "$1"; }
healthy() { podman healthcheck run "two-services_$1_1" >/dev/null; }
get() { curl -s --noproxy '*' -m 3 -w ' %{http_code}' "http://127.0.0.1:$1"; }
answers() { [[ $(get '8081/call-echo?msg=hello') == *" $1" ]]; } # answers STATUS
both_up() { [[ $(get '9090/api/v1/query?query=sum(up)') == *'"2"'* ]]; }
crashed() { [[ $(of service-a '{{.State.Pid}}') != "$1" ]]; } # crashed PID: it is another process now
clean_up() {
  local result=$?
  ((result == 0)) || tail "$work"/*.log
  compose --profile prometheus down --timeout=1 || true
  kill "$engine" 2>/dev/null || true
  rm -rf "$work"
}

containers() {
  if ((EUID != 0)); then
    skip "containers: Podman as it is set up here needs root"
    return
  fi
  scripts/setup.sh deploy
  work=$(mktemp -d)
  mkdir -p build/containers
  configure_podman "$PWD/build/containers"

  say "the images are built"
  image debian:bookworm-slim minimal_debian
  for service in service-a service-b; do
    logged "$work/build.log" podman build --format docker -f deploy/Containerfile --target $service -t $service:0.1.0 .
    check "$service runs, and is 0.1.0" \
      test "$(podman run --rm --no-healthcheck --network none --read-only $service:0.1.0 --version)" = "$service 0.1.0"
    kilobytes=$((($(size $service:0.1.0) - $(size debian:bookworm-slim)) / 1000))
    check "$service is $kilobytes kB on top of Debian, less than 30 MB" test $kilobytes -lt 30000
    check "its image has a health check" \
      test "$(podman image inspect --format '{{.HealthCheck.Test}}' $service:0.1.0)" = "[CMD $service --check]"
  done

  say "compose runs them"
  podman system service --time=0 "unix://$work/engine" 2>"$work/engine.log" &
  engine=$!
  trap clean_up EXIT
  export DOCKER_HOST=unix://$work/engine
  eventually test -S "$work/engine"
  check "it starts" compose up -d --no-build
  check "a call succeeds" eventually answers 200
  for service in service-a service-b; do
    check "$service is healthy" eventually healthy $service
    check "it is not root, and has no capabilities" grep -qz \
      "Uid:[[:space:]]10001.*CapBnd:[[:space:]]0*[[:space:]]" "/proc/$(of $service '{{.State.Pid}}')/status"
    check "it can write no file" test "$(of $service '{{.HostConfig.ReadonlyRootfs}}')" = true
  done
  kill -STOP "$(of service-a '{{.State.Pid}}')"
  check "a service-a that hangs is not healthy" eval '! healthy service-a'
  check "and a 503" answers 503
  kill -CONT "$(of service-a '{{.State.Pid}}')"
  check "then it is a 200 again" eventually answers 200
  compose kill service-a
  check "without the container of service-a it is a 503" answers 503
  compose start service-a
  check "with it a 200 again" eventually answers 200
  pid=$(of service-a '{{.State.Pid}}')
  kill -KILL "$pid"
  check "after a crash it is started again" eventually crashed "$pid"
  check "and it is a 200 again" eventually answers 200

  say "with a Prometheus"
  image prom/prometheus:v2.53.0 debian_with_prometheus
  check "it starts" compose --profile prometheus up -d --no-build
  check "it finds both services" eventually both_up

  say "compose stops them"
  compose --profile prometheus stop
  for service in service-a service-b; do
    check "$service ended with 0" test "$(of $service '{{.State.ExitCode}}')" = 0
  done
}

# --- manifests

manifests() {
  if ! command -v kubectl >/dev/null || ! command -v yq >/dev/null; then scripts/setup.sh deploy; fi
  all=$(mktemp)
  # holds WHAT FILTER: says jq's FILTER of all objects.
  holds() {
    check "$1" test "$(jq "def of(kind): .[] | select(.kind == kind);
      def pods: of(\"Deployment\").spec.template.spec;
      def variable(name): .containers[0].env[] | select(.name == name).value;
      def seconds(name): variable(name) | rtrimstr(\"s\") | tonumber;
      $2" "$all")" = true
  }

  say "the manifests for Kubernetes"
  kubectl kustomize deploy/kubernetes | yq -s . >"$all"
  holds "all is there, and in one namespace" '
    [.[] | select(.kind != "Namespace") | .metadata.namespace] | length == 10 and unique == ["two-services"]'
  holds "3 replicas of A, 2 of B" '
    [of("HorizontalPodAutoscaler") | [.spec.scaleTargetRef.name, .spec.minReplicas]] | sort == [["service-a", 3], ["service-b", 2]]'
  holds "B calls the Service of A" '
    (of("Service") | select(.metadata.name == "service-a") | "http://service-a:\(.spec.ports[0].port)")
      == (of("Deployment") | select(.metadata.name == "service-b").spec.template.spec | variable("SERVICE_A_URL"))'
  holds "a pod has time to drain" '
    [pods] | all(seconds("DRAIN_DELAY") > 0
      and .terminationGracePeriodSeconds > seconds("DRAIN_DELAY") + seconds("DRAIN_TIMEOUT"))'
  holds "the security context is the restricted one" '
    [pods] | all(.securityContext.runAsNonRoot and .securityContext.seccompProfile.type == "RuntimeDefault"
      and (.containers[0].securityContext | .readOnlyRootFilesystem and .allowPrivilegeEscalation == false
           and .capabilities.drop == ["ALL"]))'
  if command -v kubeconform >/dev/null; then
    check "they are valid for today's Kubernetes" kubeconform -strict -summary "$all"
  else
    skip "kubeconform is not installed; scripts/test-kubernetes.sh asks a cluster"
  fi
}

if (($# == 0)); then set -- package containers manifests; fi
for section in "$@"; do
  case $section in
    package | containers | manifests) ("$section") ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
  esac
done
say "all as expected"
