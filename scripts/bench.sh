#!/usr/bin/env bash
# Measures Service A and B beside what else could have been used for the same work: nginx, Go's net/http,
# Flask under gunicorn, cpp-httplib as it comes, and a raw epoll loop as the floor. Takes 15 minutes.
#   scripts/bench.sh [--quick] [--rounds N] [--seconds N] [--connections N...] [--out FOLDER]
# Installs and builds what is missing. Prints tables; they are also in build/bench (or FOLDER), with every
# sample (results.csv) and a picture (speed.svg). Only loopback is used.
set -euo pipefail
. "$(dirname "$0")/usage.sh"
cd "$(dirname "$0")/.."

scripts/setup.sh bench
scripts/build.sh release service-a service-b

mkdir -p build/bench
compile() {
  # shellcheck disable=SC2046  # several words
  c++ -std=c++20 -O3 -DNDEBUG -Wall -Wextra -pthread "scripts/bench/$1.cpp" -o "build/bench/$2" \
    $(pkg-config --cflags --libs cpp-httplib)
}
compile floor floor
compile pair pair-httplib
go build -o build/bench/pair-go scripts/bench/pair.go

export PYTHONDONTWRITEBYTECODE=1  # no __pycache__ beside the sources
exec python3 scripts/bench/bench.py "$@"
