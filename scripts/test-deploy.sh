#!/usr/bin/env bash
# Tries what brings the services onto machines, with the real tools. package and containers need root. Says what it skips;
# exit code 77: that was all.
#   scripts/test-deploy.sh [section...]     all of them unless some are named
# Sections:
#   package     builds the .deb, installs it in a clean Debian, boots that and uses its units
#   containers  builds both images with Podman, runs the compose file on it, kills, hangs and stops what runs there
#   manifests   what the manifests for Kubernetes must say; test-kubernetes.sh puts them on a cluster
set -euo pipefail
. "$(dirname "$0")/usage.sh"
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
# skip WHY: leaves the section.
skip() {
  echo "skipped: $*"
  exit 77
}

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
  call() { # call URL STATUS [REQUEST_ID]
    [[ $(curl -s -o /tmp/body -w '%{http_code}' ${3:+-H "X-Request-ID: $3"} "$1") == "$2" ]]
  }
  # shellcheck disable=SC2317
  logged_json() { journalctl -o cat -u service-a | grep '^{.*"msg":"listening"' >/dev/null; }
  # shellcheck disable=SC2317
  exposed() { systemd-analyze security --no-pager --threshold=19 "$1" | tail -n 1; }
  # shellcheck disable=SC2317
  restarted() { [[ $(property service-a NRestarts) == 1 ]]; }
  # shellcheck disable=SC2317
  given_up() { [[ $(property service-b ActiveState) == failed ]]; }
  # ids OPTIONS...: of the requests to service-b whose lines journalctl finds with these options
  ids() { journalctl -o cat -u service-b "$@" | sed -n 's/.* request_id=\([^ ]*\) .*/\1/p' | xargs; }
  # shellcheck disable=SC2317
  all_ids() { [[ $(ids) == *"$1" ]]; }
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
  check "a call succeeds" call "$call_url" 200 good-1
  check "the processes have no capabilities" \
    grep -q '^CapBnd:[[:space:]]*0*$' "/proc/$(property service-a MainPID)/status"
  systemctl stop service-a
  check "without service-a it is a 503" call "$call_url" 503 failed
  check "it ended cleanly" test "$(property service-a Result)" = success
  systemctl start service-a
  check "with service-a it is a 200 again" call "$call_url" 200 good-2
  check "the journal has a line of each call" eventually all_ids "good-1 failed good-2"
  check "journalctl -p err finds that of the failed one alone" test "$(ids -p err)" = failed

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
  ((EUID == 0)) || skip "debootstrap and systemd-nspawn need root"
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
  printf '%s\n' "FROM $BASE_IMAGE" \
    'RUN apt-get update && apt-get install -y --no-install-recommends prometheus' \
    'ENTRYPOINT ["prometheus", "--storage.tsdb.path=/tmp"]' | podman build -t "$1" -
}

compose() { docker-compose -p two-services -f deploy/compose.yaml "$@" >>"$work/compose.log" 2>&1; }
of() { podman inspect --format "$2" "two-services_$1_1"; } # of SERVICE FORMAT: a fact of its container
label() { podman image inspect --format "{{index .Labels \"org.opencontainers.image.$1\"}}" "$image"; }
size() { podman image inspect --format '{{.Size}}' "$1"; }
healthy() { podman healthcheck run "two-services_$1_1" >/dev/null; }
get() { curl -s --noproxy '*' -m 3 -w ' %{http_code}' "http://127.0.0.1:$1"; }
answers() { [[ $(get '8081/call-echo?msg=hello') == *" $1" ]]; } # answers STATUS
both_up() { [[ $(get '9090/api/v1/query?query=sum(up)') == *'"2"'* ]]; }
crashed() { [[ $(of service-a '{{.State.Pid}}') != "$1" ]]; } # crashed PID: it is another process now
is_apart() { [[ $(readlink "/proc/$1/ns/net") != "$(readlink /proc/self/ns/net)" ]]; } # is_apart PID
online() { [[ -n $(ip -4 route show default) ]]; }

containers() {
  ((EUID == 0)) || skip "Podman as it is set up here needs root"
  scripts/setup.sh deploy
  work=$(mktemp -d)
  # In network, mount and process namespaces of their own, which take Podman's firewall rules, ports, mounts and
  # processes along when they end. slirp4netns connects them to the outside, as a program of this machine that needs no
  # rules.
  work=$work unshare --net --mount --pid --fork --kill-child --mount-proc scripts/test-deploy.sh apart &
  apart=$! outside='' # the trap needs them
  trap end_apart EXIT
  eventually is_apart $apart
  slirp4netns --configure --mtu=65520 $apart tap0 >"$work/slirp4netns.log" 2>&1 &
  outside=$!
  wait $apart
}

# Also where it was interrupted: with unshare all ends that runs in its namespaces.
end_apart() {
  if kill -KILL "$apart" 2>/dev/null; then sleep 1; fi
  [[ -z $outside ]] || kill "$outside" 2>/dev/null || true
  find /sys/fs/cgroup -depth -type d -path '*/libpod_parent*' -exec rmdir {} + 2>/dev/null || true
  rm -rf "$work"
}

clean_up() {
  local result=$?
  ((result == 0)) || tail "$work"/*.log
  compose --profile prometheus down --timeout=1 || true
  kill "$engine" 2>/dev/null || true
}

# Runs in the namespaces that are made above.
apart() {
  local resolv_conf version service image kilobytes packages pid
  local -A ports=([service-a]=8080 [service-b]=8081)
  resolv_conf=$(readlink -m /etc/resolv.conf)
  mount -t tmpfs tmpfs /run
  [[ -e $resolv_conf ]] || install -D /dev/null "$resolv_conf"
  echo "nameserver 10.0.2.3" >"$work/resolv.conf" # slirp4netns
  mount --bind "$work/resolv.conf" "$resolv_conf"
  ip link set lo up
  check "there is a network" eventually online
  mkdir -p build/containers
  configure_podman "$PWD/build/containers"
  podman system service --time=0 "unix://$work/engine" 2>"$work/engine.log" &
  engine=$!
  trap clean_up EXIT
  export DOCKER_HOST=unix://$work/engine
  eventually test -S "$work/engine"
  version=$(sed -n 's/^project(.* VERSION \([0-9.]*\) .*/\1/p' CMakeLists.txt)
  REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)
  export REVISION

  say "compose builds the images and runs them"
  BASE_IMAGE=$(sed -n 's/^ARG BASE_IMAGE=//p' deploy/Containerfile)
  podman pull -q "$BASE_IMAGE" 2>/dev/null || BASE_IMAGE=debian:bookworm-slim # a stand-in has another digest
  export BASE_IMAGE
  image "$BASE_IMAGE" minimal_debian
  check "docker compose up --build" compose up --build -d
  check "a call succeeds" eventually answers 200
  for service in service-a service-b; do
    image=$service:$version
    check "$image is $version" test "$(podman run --rm --no-healthcheck --network none --read-only "$image" --version)" = "$service $version"
    check "its labels say so, and its licence and revision" \
      test "$(label version) $(label licenses) $(label revision)" = "$version MIT $REVISION"
    kilobytes=$((($(size "$image") - $(size "$BASE_IMAGE")) / 1000))
    check "it is $kilobytes kB on top of Debian, less than 30 MB" test $kilobytes -lt 30000
    scripts/sbom.sh "$image" >"$work/sbom"
    packages=$(podman run --rm --no-healthcheck --network none --entrypoint dpkg-query "$image" --show | wc -l)
    check "its SBOM has the service and the $packages Debian packages that are in it" \
      test "$(jq '.packages, .relationships | length' "$work/sbom" | xargs)" = "$((packages + 1)) $((packages + 1))"
    check "it serves IPv6 as well" nsenter -n -t "$(of $service '{{.State.Pid}}')" \
      curl -sfg -o /dev/null "http://[::1]:${ports[$service]}/health"
    check "it is healthy" eventually healthy $service
    check "it is not root, and has no capabilities" grep -qz \
      "Uid:[[:space:]]10001.*CapBnd:[[:space:]]0*[[:space:]]" "/proc/$(of $service '{{.State.Pid}}')/status"
    check "it can write no file" test "$(of $service '{{.HostConfig.ReadonlyRootfs}}')" = true
    check "its memory, processes and log are limited" test \
      "$(of $service '{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.LogConfig.Size}}')" = "134217728 100 10MB"
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
  check "docker compose --profile prometheus up --build" compose --profile prometheus up --build -d
  check "it finds both services by their names" eventually both_up

  say "compose stops them"
  compose --profile prometheus stop
  for service in service-a service-b; do
    check "$service ended with 0" test "$(of $service '{{.State.ExitCode}}')" = 0
  done
}

# --- manifests

manifests() {
  [[ $(kubectl version --client 2>/dev/null) == *"Kustomize Version: v"[5-9]* ]] || skip "needs kubectl 1.27, and Debian 12 has 1.20"
  if ! command -v yq >/dev/null || ! command -v npm >/dev/null; then scripts/setup.sh deploy; fi
  local types=build/manifests overlay
  all=$(mktemp)
  trap 'rm -f "$all"' EXIT
  # holds WHAT FILTER: says jq's FILTER of all objects.
  holds() {
    check "$1" test "$(jq "def of(kind): .[] | select(.kind == kind);
      def pods: of(\"Deployment\").spec.template.spec;
      def container: pods.containers[0];
      def variable(name): .containers[0].env[] | select(.name == name).value;
      def seconds(name): variable(name) | rtrimstr(\"s\") | tonumber;
      $2" "$all")" = true
  }

  say "the manifests for Kubernetes are of its types"
  # Kubernetes' own types as TypeScript has them, made from its OpenAPI schema, and those of the Prometheus Operator: an
  # unknown field or a wrong value does not compile.
  mkdir -p $types
  logged $types/npm.log npm install --prefix $types --no-audit --no-fund --no-save \
    kubernetes-models@5.1.0 @kubernetes-models/prometheus-operator@6.0.0 @grafana/schema@13.2.3 typescript@5.9.3
  for overlay in base production; do
    kubectl kustomize deploy/kubernetes/$overlay | yq -s . >"$all"
    jq -r 'to_entries[] | .key as $i | .value
      | (if .apiVersion | startswith("monitoring.coreos.com/") then "@kubernetes-models/prometheus-operator" else "kubernetes-models" end) as $from
      | "import type { I\(.kind) as Type\($i) } from \"\($from)/\(.apiVersion)/\(.kind)\";",
        "export const \(.kind | ascii_downcase)_\($i): Type\($i) = \(.);"' "$all" >$types/$overlay.mts
    check "$overlay" $types/node_modules/.bin/tsc --noEmit --strict --skipLibCheck --module nodenext --target es2022 $types/$overlay.mts
  done
  cat deploy/observability/dashboard-types.ts deploy/observability/dashboard.json >$types/dashboard.mts
  check "Grafana's dashboard is of Grafana's types" \
    $types/node_modules/.bin/tsc --noEmit --strict --skipLibCheck --module nodenext --target es2022 $types/dashboard.mts

  say "and say what they should"
  holds "all is in one namespace" '
    [.[] | select(.kind != "Namespace") | .metadata.namespace] | length > 10 and unique == ["two-services"]'
  # shellcheck disable=SC2016  # jq's variables
  holds "the labels are complete, and say the version of the images" '
    [of("Deployment").spec.template | .metadata.labels as $labels
      | ["name", "instance", "component", "part-of", "version", "managed-by"] | map($labels["app.kubernetes.io/" + .])]
    == [of("Deployment") | .spec.template.spec.containers[0] | (.image | split(":")[1]) as $version
      | [.name, "two-services", {"service-a": "echo", "service-b": "gateway"}[.name], "two-services", $version, "kustomize"]]'
  holds "3 replicas of A, 2 of B" '
    [of("HorizontalPodAutoscaler") | [.spec.scaleTargetRef.name, .spec.minReplicas]] | sort == [["service-a", 3], ["service-b", 2]]'
  holds "B calls the Service of A" '
    (of("Service") | select(.metadata.name == "service-a") | "http://service-a:\(.spec.ports[0].port)")
      == (of("Deployment") | select(.metadata.name == "service-b").spec.template.spec | variable("SERVICE_A_URL"))'
  holds "a pod has time to drain" '
    [pods] | all(seconds("DRAIN_DELAY") > 0
      and .terminationGracePeriodSeconds > seconds("DRAIN_DELAY") + seconds("DRAIN_TIMEOUT"))'
  holds "pods are on different nodes also where nodes have no zone: a second constraint would count only nodes that have one" '
    [pods | .topologySpreadConstraints | map(.topologyKey)] == [range(2) | ["kubernetes.io/hostname"]]'
  # shellcheck disable=SC2016
  holds "probes and Prometheus ask the admin port" '
    [of("Deployment").spec.template | .metadata.annotations["prometheus.io/port"] as $port | .spec
      | (variable("ADMIN_PORT") == $port) and (.containers[0] | [.startupProbe, .livenessProbe, .readinessProbe]
        | map(.httpGet.port) | unique == ["admin"])] | length == 2 and all'
  holds "the security context is the restricted one, without a token" '
    [pods] | all(.securityContext.runAsNonRoot and .securityContext.seccompProfile.type == "RuntimeDefault"
      and .automountServiceAccountToken == false
      and (.containers[0].securityContext | .runAsGroup > 0 and .readOnlyRootFilesystem and .allowPrivilegeEscalation == false
           and .capabilities.drop == ["ALL"]))'
}

if (($# == 0)); then set -- package containers manifests; fi
done=() skipped=()
for section in "$@"; do
  case $section in
    package | containers | manifests) ;;
    apart) # containers calls it
      apart
      exit ;;
    *)
      usage >&2
      exit 2 ;;
  esac
  set +e # in an `if` or before `||`, a failure inside would not end the section
  (set -e; "$section")
  result=$?
  set -e
  case $result in
    0) done+=("$section") ;;
    77) skipped+=("$section") ;;
    *) exit "$result" ;;
  esac
done
if ((${#skipped[@]} == 0)); then
  say "all as expected"
else
  say "as expected: ${done[*]:-nothing}; NOT TRIED: ${skipped[*]}"
  ((${#done[@]} > 0)) || exit 77
fi
