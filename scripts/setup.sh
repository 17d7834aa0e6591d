#!/usr/bin/env bash
# Installs what is missing to build, run and test the services; a second run finds nothing to do.
# Installing takes a minute or two.
#   scripts/setup.sh        what a user needs
#   scripts/setup.sh dev    and the tools of lint, sanitizers, fuzzing and CI
#   scripts/setup.sh bench  and those that bench.sh measures beside the services
#   scripts/setup.sh deploy and what builds and tries the Debian package, the images and the manifests
set -euo pipefail
. "$(dirname "$0")/usage.sh"

packages=(g++ cmake ninja-build pkg-config curl
          libcpp-httplib-dev nlohmann-json3-dev libspdlog-dev libcli11-dev prometheus-cpp-dev
          libboost-context-dev libgtest-dev libgmock-dev)
dev_packages=(git clang clang-format clang-tidy cppcheck libclang-rt-14-dev shellcheck python3
              iproute2 nftables prometheus prometheus-alertmanager valgrind chromium)
bench_packages=(python3 wrk nginx golang-go gunicorn python3-flask python3-requests)
deploy_packages=(dpkg-dev file help2man lintian debootstrap systemd-container
                 podman runc netavark aardvark-dns iptables iproute2 slirp4netns docker-compose)
manifest_packages=(yq)
command -v npm >/dev/null || manifest_packages+=(npm)
# Where there is a kubectl from elsewhere, Debian's would be in its way.
command -v kubectl >/dev/null || manifest_packages+=(kubernetes-client)

case "${1-}" in
  "") ;;
  dev)
    packages+=("${dev_packages[@]}")
    # npm brings 340 packages, and Debian 12's own kubectl is too old for the manifests.
    if command -v kubectl >/dev/null; then packages+=("${manifest_packages[@]}"); fi ;;
  bench) packages+=("${bench_packages[@]}") ;;
  deploy) packages+=("${deploy_packages[@]}" "${manifest_packages[@]}") ;;
  *) usage >&2; exit 2 ;;
esac

if [[ $(uname -s) != Linux ]]; then
  echo "setup: the services are for Linux. On a Mac or on Windows: the dev container (.devcontainer)," \
       "a container with Debian 12, or WSL 2" >&2
  exit 1
fi

# Elsewhere CMake downloads the libraries itself, all but Boost.Context.
if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  missing=()
  for tool in c++ cmake ninja pkg-config curl; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  if ((${#missing[@]} == 0)) &&
    ! c++ -x c++ -E -include boost/context/fiber.hpp /dev/null >/dev/null 2>&1; then
    missing+=(Boost.Context)
  fi
  if ((${#missing[@]} == 0)); then
    echo "setup: the tools are there; CMake downloads the libraries that it does not find"
    exit 0
  fi
  echo "setup: this is neither Debian nor Ubuntu. Install what is missing: ${missing[*]}" \
       "(a compiler for C++20, CMake 3.25)" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  # shellcheck disable=SC2016  # ${Status} is dpkg-query's
  status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) || true
  [[ $status == "install ok installed" ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  echo "setup: all packages are installed"
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "setup: as root, run: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "setup: installs ${missing[*]}"

# Debian starts the daemon of a package it installs; these are wanted as programs only.
daemons=()
for package in prometheus prometheus-alertmanager nginx; do
  [[ " ${missing[*]} " == *" $package "* ]] && daemons+=("$package")
done
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
trap 'rm -f "$log"' EXIT
if ((${#daemons[@]} > 0)) && [[ ! -e $policy ]]; then
  trap 'rm -f "$log"; "${as_root[@]}" rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
fi

apt_get=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
         apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
quietly() {  # shows what it writes in one line of the terminal, and all of it where it fails
  if ! "$@" 2>&1 | tee "$log" | in_place setup; then
    cat "$log"
    exit 1
  fi
}
quietly "${apt_get[@]}" update
quietly "${apt_get[@]}" install -y --no-install-recommends "${missing[@]}"
if ((${#daemons[@]} > 0)) && command -v systemctl >/dev/null; then
  "${as_root[@]}" systemctl disable "${daemons[@]}"  # nor at the next boot
fi
echo "setup: done"
