#!/usr/bin/env python3
"""Measures our services and what else one could have used, side by side: see scripts/bench.sh."""

import argparse
import collections
import contextlib
import csv
import http.client
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
TARGETS = {"a": "/echo?msg=hello", "b": "/call-echo?msg=hello"}

Context = collections.namedtuple("Context", "bin work port upstream connections")


# ---- the servers: what starts them --------------------------------------------------------------


def ours(service, at, *flags):
    command = [ROOT / f"build/release/service-{service}/service-{service}", f"--port={at.port}"]
    if service == "b":
        # More than the default of 64 only where more clients call at once.
        command += [f"--service-a-url=http://127.0.0.1:{at.upstream}"]
        command += [f"--max-upstream-calls={max(64, at.connections)}"]
    return [*command, *flags]


def program(name):
    def command(service, at):
        url = [f"http://127.0.0.1:{at.upstream}"] if service == "b" else []
        return [at.bin / name, service, at.port, *url]

    return command


def nginx(_service, at):
    text = (HERE / "nginx.conf").read_text(encoding="utf-8")
    for word, value in (("WORK", at.work), ("UPSTREAM", at.upstream), ("PORT", at.port)):
        text = text.replace(word, str(value))
    (at.work / "nginx.conf").write_text(text, encoding="utf-8")
    return ["nginx", "-c", at.work / "nginx.conf", "-p", at.work]


def floor(_service, at):
    return [at.bin / "floor", at.port]


# In the order of the tables; for each, the services that it has.
PEERS = {
    "ours": ("ab", ours),
    "floor": ("a", floor),
    "nginx": ("ab", nginx),
    "go": ("ab", program("pair-go")),
}


# ---- processes ----------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tree(pid):
    """The pids of a process and of all below it."""
    children = collections.defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                children[int(stat_of(entry)[1])].append(int(entry))
    pids = [pid]
    for each in pids:
        pids += children[each]
    return pids


def stat_of(pid):
    """The fields of /proc/PID/stat from the third on (state, parent, ...)."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def cpu_seconds(pids):
    return sum(int(ticks) for pid in pids for ticks in stat_of(pid)[11:13]) / TICK


def resident_bytes(pids):
    return sum(int(stat_of(pid)[21]) * PAGE for pid in pids)


def answers(port, target):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", target)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def running(command, port, target, work):
    """Runs a server; gives its process, and the seconds from its start to its first answer."""
    with open(work / "log", "wb") as log, open(work / "errors", "wb") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=log,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        while not answers(port, target):
            if process.poll() is not None or time.perf_counter() - start > 10:
                sys.exit(f"bench: {command[0]} does not answer: {(work / 'errors').read_text()}")
            time.sleep(0.0005)
        yield process, time.perf_counter() - start
    finally:
        pids = tree(process.pid)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


# ---- a measurement ------------------------------------------------------------------------------


def load(port, target, connections, seconds, midway=lambda: None):
    """What wrk saw: requests, seconds, microseconds of p50 and p99. Runs midway() under load."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=5s"]
    command += ["-s", str(HERE / "wrk.lua"), f"http://127.0.0.1:{port}{target}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        try:
            time.sleep(seconds * 0.8)
            seen = midway()
            out, _ = wrk.communicate(timeout=seconds + 20)
        finally:
            wrk.kill()
    result = next(line for line in out.splitlines() if line.startswith("RESULT")).split()[1:]
    requests, duration, p50, p99, errors = map(int, result)
    if errors or not requests:
        raise RuntimeError(f"{errors} of {requests} requests to {target} failed")
    return requests, duration / 1e6, p50, p99, seen


def measure(command, port, service, connections, seconds, work):
    target = TARGETS[service]
    with running(command, port, target, work) as (process, first_answer):
        load(port, target, connections, 1)  # warm
        before = cpu_seconds(tree(process.pid))
        requests, duration, p50, p99, resident = load(
            port, target, connections, seconds, lambda: resident_bytes(tree(process.pid))
        )
        cpu = cpu_seconds(tree(process.pid)) - before
    return {
        "rps": requests / duration,
        "p50_us": p50,
        "p99_us": p99,
        "cpu_us": cpu / requests * 1e6,
        "rss_mb": resident / 2**20,
        "start_ms": first_answer * 1e3,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--connections", default="1,16,64,256")
    parser.add_argument("--services", default="ab")
    parser.add_argument("--peers", default="")
    args = parser.parse_args()

    samples = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        for name in ("upstream", "peer"):
            (work / name).mkdir()
        upstream = free_port()
        at = Context(args.bin, work / "upstream", upstream, upstream, 0)
        with running(nginx("a", at), upstream, TARGETS["a"], at.work):
            for _ in range(args.rounds):
                for connections in map(int, args.connections.split(",")):
                    for service in args.services:
                        for name, (services, command) in PEERS.items():
                            if service not in services or (args.peers and name not in args.peers.split(",")):
                                continue
                            at = Context(args.bin, work / "peer", free_port(), upstream, connections)
                            key = service, connections, name
                            samples[key].append(
                                measure(command(service, at), at.port, service, connections, args.seconds, at.work)
                            )
    for (service, connections, name), values in sorted(samples.items()):
        row = [f"{statistics.median(v[k] for v in values):10.1f}" for k in values[0]]
        print(f"{service} {connections:4d} {name:12s}", *row)
    print("columns:", *values[0])


main()
