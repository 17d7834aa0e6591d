#!/usr/bin/env bash
# Puts both services on the cluster that kubectl points at, in a namespace of its own that is deleted at the end,
# and shows under load: a rolling restart of either loses no call, without any pod of A there are 503s and nothing
# else, new pods of A get their share, and idle clients make no probe fail. Takes some three minutes.
#   scripts/test-kubernetes.sh [IMAGE_A IMAGE_B]   images that the nodes have or can pull; by default
#                                                  those in deploy/kubernetes/base/kustomization.yaml
set -euo pipefail
. "$(dirname "$0")/usage.sh"
cd "$(dirname "$0")/.."

namespace=two-services-test-$$
work=$(mktemp -d)
k() { kubectl --namespace="$namespace" "$@"; }
say() { printf '\n%3d s  %s\n' "$SECONDS" "$*"; }
fail() {
  echo "NOT AS EXPECTED: $*" >&2
  exit 1
}
check() { # check WHAT COMMAND...
  "${@:2}" || fail "$1"
  echo "  ok: $1"
}
within() { # within SECONDS COMMAND...: tries until it succeeds
  local end=$((SECONDS + $1))
  until "${@:2}"; do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}
cleanup() {
  local result=$?
  if ((result != 0)); then
    k get pods -o wide || true
    k get events --sort-by=.lastTimestamp | tail -n 20 || true
  fi
  kubectl delete namespace "$namespace" --ignore-not-found --wait=false >/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

# --- in the pod that makes the load: it has Service B's image, where there is bash, and no curl

ask() { # leaves $status ("closed": without an answer) and $answer; needs $fd, empty if not connected
  local name value length=0 last=false cr
  printf -v cr '\r' # `declare -f` would write $'\r' as the byte itself, which YAML takes for a line end
  status=closed answer=''
  if [[ -z $fd ]] && ! { exec {fd}<>/dev/tcp/service-b/8081; } 2>/dev/null; then
    fd='' answer='cannot connect'
    return
  fi
  { printf 'GET /call-echo?msg=hello HTTP/1.1\r\nHost: service-b\r\n\r\n' >&"$fd"; } 2>/dev/null || true
  if IFS=" $cr" read -r -t 5 _ value _ <&"$fd"; then
    status=$value
    while IFS=": $cr" read -r -t 5 name value <&"$fd" && [[ -n $name ]]; do
      case ${name,,} in
        content-length) length=$value ;;
        connection) [[ $value != close ]] || last=true ;;
      esac
    done
    IFS= read -r -t 5 -N "$length" answer <&"$fd" || status=incomplete
  else
    last=true
  fi
  if $last; then hang_up; fi
}
hang_up() {
  if [[ -n $fd ]]; then exec {fd}>&-; fi
  fd=''
}
call_on() { # call_on CALLS: calls until SIGTERM, with so many calls on each connection
  local fd='' calls=0 unavailable=0 failed=0 again=0 slowest=0 last='' stop=false
  local start took status answer reused
  trap 'stop=true' TERM
  trap '' PIPE
  until $stop || ((SECONDS > 600)); do
    start=${EPOCHREALTIME/./}
    reused=$fd
    ask
    # A connection that was closed before the request came tells nothing of the service: RFC 9110, section 9.2.2.
    if [[ $status == closed && -n $reused ]]; then
      again=$((again + 1))
      ask
    fi
    took=$(((${EPOCHREALTIME/./} - start) / 1000))
    ((took <= slowest)) || slowest=$took
    calls=$((calls + 1))
    case $status in
      200) ;;
      503) unavailable=$((unavailable + 1)) ;;
      *) failed=$((failed + 1)) ;;
    esac
    if [[ $status != "$last" ]]; then printf '%(%T)T status %s after %d ms %s\n' -1 "$status" "$took" "$answer"; fi
    last=$status
    ((calls % $1 != 0)) || hang_up
    sleep 0.01
  done
  echo "sum $calls $unavailable $failed $again $slowest"
}
make_load() {
  local callers=() each
  for each in 1 1 20 20; do
    call_on "$each" &
    callers+=($!)
  done
  trap 'kill "${callers[@]}"' TERM
  for each in "${callers[@]}"; do
    while kill -0 "$each" 2>/dev/null; do wait "$each" || true; done
  done
}

# --- here

loads=0
start_load() {
  loads=$((loads + 1))
  load=load-$loads
  k apply -f - >/dev/null <<END
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: load }
spec: { podSelector: { matchLabels: { load: "true" } }, policyTypes: [Egress], egress: [{}] }
---
apiVersion: v1
kind: Pod
metadata: { name: $load, labels: { load: "true" } }
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: { runAsNonRoot: true, seccompProfile: { type: RuntimeDefault } }
  containers:
    - name: load
      image: $image_b
      securityContext:
        allowPrivilegeEscalation: false
        capabilities: { drop: [ALL] }
      command:
        - bash
        - -c
        - |
$({ declare -f ask hang_up call_on make_load; echo make_load; } | sed 's/^/          /')
END
  within 60 load_flows || fail "the load does not start"
}
load_flows() { [[ $(k logs "$load" 2>/dev/null | grep -c ' status 200 ') -ge 4 ]]; } # all four callers
load_ended() { [[ $(k get pod "$load" -o jsonpath='{.status.phase}') == Succeeded ]]; }
# Leaves $unavailable and $failed: how many calls were answered 503, and how many otherwise or not at all.
stop_load() {
  k exec "$load" -- bash -c 'kill -TERM 1'
  within 30 load_ended || fail "the load does not stop"
  k logs "$load" >"$work/load"
  k delete pod "$load" --wait=false >/dev/null
  read -r calls unavailable failed again slowest < <(awk '$1 == "sum" {
      calls += $2; unavailable += $3; failed += $4; again += $5
      if ($6 > slowest) slowest = $6
    } END { print calls, unavailable, failed, again, slowest }' "$work/load")
  echo "  $calls calls: $((calls - unavailable - failed)) times 200, $unavailable times 503, $failed otherwise;" \
    "$again of them were sent again on a new connection; the slowest took $slowest ms"
}
expect_no_loss() {
  [[ $unavailable == 0 && $failed == 0 ]] || grep ' status [^2]' "$work/load" | head -n 20
  check "no call failed" [ "$unavailable $failed" = "0 0" ]
}

pods() { # pods SERVICE [FIELD]: of those that are not about to end
  k get pods -l "app.kubernetes.io/name=$1" -o go-template="{{range .items}}{{if not .metadata.deletionTimestamp}}{{${2:-.metadata.name}}} {{end}}{{end}}"
}
ready() { # ready SERVICE REPLICAS: so many are, and no other is left
  local deployment
  deployment=$(k get deployment "$1" -o jsonpath='{.status.readyReplicas} {.status.replicas} {.status.updatedReplicas}')
  [[ $deployment == "$2 $2 $2" ]]
}
gone() { # gone POD...
  k wait --for=delete --timeout=180s "${@/#/pod/}" >/dev/null 2>&1 || [[ -z $(k get pods --ignore-not-found "$@") ]]
}
restart() { # restart SERVICE: until its old pods are gone
  local old
  read -ra old <<<"$(pods "$1")"
  k rollout restart "deployment/$1" >/dev/null
  k rollout status "deployment/$1" --timeout=180s >/dev/null
  gone "${old[@]}"
}

say "The manifests, on $(kubectl config current-context), in the namespace $namespace"
kubectl kustomize deploy/kubernetes/base >"$work/manifests.yaml"
sed -i "s/^\( *namespace\|  name\): two-services$/\1: $namespace/" "$work/manifests.yaml"
if (($# == 2)); then
  sed -i -e "s#image: service-a:.*#image: $1#" -e "s#image: service-b:.*#image: $2#" "$work/manifests.yaml"
elif (($# != 0)); then
  usage >&2
  exit 2
fi
image_b=$(sed -n 's/.* image: \(.*service-b.*\)/\1/p' "$work/manifests.yaml")
kubectl api-versions >"$work/versions"
validate=strict
for each in policy/v1=policy/v1beta1 autoscaling/v2=autoscaling/v2beta2; do
  if ! grep -qx "${each%=*}" "$work/versions"; then
    echo "  an old cluster, without ${each%=*}: ${each#*=} is taken instead"
    sed -i "s#^apiVersion: ${each%=*}\$#apiVersion: ${each#*=}#" "$work/manifests.yaml"
    validate=ignore # it drops the fields that it does not know
  fi
done
kubectl apply --validate=$validate -f "$work/manifests.yaml" >/dev/null
check "3 pods of A and 2 of B are ready" within 120 eval 'ready service-a 3 && ready service-b 2'
nodes=$(kubectl get nodes -o name | wc -l)
spread=$(pods service-a .spec.nodeName | xargs -n 1 | sort -u | wc -l)
check "A is on $spread of $nodes nodes" [ "$spread" -ge $((nodes > 1 ? 2 : 1)) ]
for each in service-a service-b; do
  # shellcheck disable=SC2016  # bash's variable there
  check "$each has neither root's user nor its group" [ "$(k exec "deployment/$each" -- bash -c 'echo "$UID $(id -G)"')" = "10001 10001" ]
done

say "A rolling restart of A"
start_load
restart service-a
stop_load
expect_no_loss

say "A rolling restart of B"
start_load
restart service-b
stop_load
expect_no_loss

say "All pods of A are killed"
start_load
k delete pods -l app.kubernetes.io/name=service-a --force --grace-period=0 2>/dev/null >/dev/null
turns() { k logs "$load" | grep -c " status $1 " || true; } # how often a caller's answers became that
some_unavailable() { [[ $(turns 503) -gt 0 ]]; }
all_recovered() { [[ $(turns 200) == $(($(turns 503) + 4)) ]]; }
check "there are 503s" within 30 some_unavailable
check "then 200s again" within 120 all_recovered
stop_load
check "and there was nothing else" [ "$failed" = 0 ]
grep -m 1 ' status 503 ' "$work/load"

say "A is scaled from 1 pod to 3"
k delete hpa service-a >/dev/null # it would not allow 1
k scale deployment/service-a --replicas=1 >/dev/null
check "one pod of A is left" within 60 ready service-a 1
start_load
k scale deployment/service-a --replicas=3 >/dev/null
start=$SECONDS
all_answer() { # each had a request within the last seconds
  local each
  ready service-a 3 || return 1
  for each in $(pods service-a); do
    [[ $(k logs "$each" --since=3s | grep -c endpoint=/echo) -gt 0 ]] || return 1
  done
}
within 60 all_answer || fail "not all three pods of A answer"
took=$((SECONDS - start))
check "all three answer, $took s after the command" [ "$took" -le 30 ]
stop_load
expect_no_loss

say "Idle clients take all connections of a pod of B"
start_load
read -r pod _ <<<"$(pods service-b)"
address=$(k get pod "$pod" -o jsonpath='{.status.podIP}')
k exec "$load" -- bash -c "for _ in {1..1000}; do exec {fd}<>/dev/tcp/$address/8081; done; sleep 40"
stop_load
check "other clients are turned away" grep -q 'too many open connections' "$work/load"
check "no probe fails" [ -z "$(k get events --field-selector "involvedObject.name=$pod,reason=Unhealthy" -o name)" ]

check "no container of B has ended in all that" [ "$(pods service-b '(index .status.containerStatuses 0).restartCount')" = "0 0 " ]
say "All as expected."
