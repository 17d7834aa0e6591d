#!/usr/bin/env python3
"""Measures our two services beside what else could have been used: see scripts/bench.sh.

Each measurement starts a server anew, warms it for a second, and then lets wrk ask as fast as it is
answered. A round measures everything once; a ratio is taken within a round, so that what else the machine
does meets both.
"""

import argparse
import collections
import contextlib
import csv
import http.client
import os
import pathlib
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import draw

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build"
TARGETS = {"a": "/echo?msg=hello", "b": "/call-echo?msg=hello"}
TITLES = {"a": "Service A, /echo", "b": "Service B, /call-echo"}

# ---- the servers ----------------------------------------------------------------------------------

# What a server is started with. All Service Bs call the same Service A, nginx on port `upstream`: so
# they differ in nothing else.
Setting = collections.namedtuple("Setting", "service port upstream connections folder")


def url_of_a(at):
    return f"http://127.0.0.1:{at.upstream}"


def ours(at):
    command = [BUILD / f"release/service-{at.service}/service-{at.service}", f"--port={at.port}"]
    if at.service == "b":
        # More than the default of 64 only where more clients than that call at once.
        command += [f"--service-a-url={url_of_a(at)}"]
        command += [f"--max-upstream-calls={max(64, at.connections)}"]
    return command


def nginx(at):
    text = (HERE / "nginx.conf").read_text(encoding="utf-8")
    for name, value in (("FOLDER", at.folder), ("UPSTREAM", at.upstream), ("PORT", at.port)):
        text = text.replace(name, str(value))
    (at.folder / "nginx.conf").write_text(text, encoding="utf-8")
    return ["nginx", "-e", "stderr", "-c", at.folder / "nginx.conf"]


def flask(at):
    options = f"--bind=127.0.0.1:{at.port} --workers=2 --worker-class=gthread --threads=32"
    options += " --keep-alive=60 --log-level=warning"
    argument = repr(url_of_a(at)) if at.service == "b" else ""
    return ["gunicorn", f"--chdir={HERE}", *options.split(), f"pair:{at.service}({argument})"]


def httplib(at):
    # A thread is bound to a connection: with fewer threads than connections, some would starve.
    return [BUILD / "bench/pair-httplib", at.service, at.port, at.connections + 8, url_of_a(at)]


SERVERS = {
    "ours": ("ab", ours),
    "ours, no log": ("a", lambda at: [*ours(at), "--log-level=off"]),
    "raw epoll": ("a", lambda at: [BUILD / "bench/floor", at.port]),
    "nginx": ("ab", nginx),
    "Go net/http": ("ab", lambda at: [BUILD / "bench/pair-go", at.service, at.port, url_of_a(at)]),
    "stock cpp-httplib": ("ab", httplib),
    "Flask, gunicorn": ("ab", flask),
}

# ---- their processes ------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stat(pid):
    """The fields of /proc/PID/stat after the name, which may hold anything: proc(5)'s 3rd is [0]."""
    text = pathlib.Path(f"/proc/{pid}/stat").read_bytes()
    return text.rpartition(b")")[2].split()


def family(pid):
    """The process and all that descend from it."""
    children = collections.defaultdict(list)
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            children[int(stat(name)[1])].append(int(name))
    pids = [pid]
    for each in pids:
        pids += children[each]
    return pids


def cpu_seconds(pid):
    ticks = sum(int(user) + int(system) for user, system in (stat(p)[11:13] for p in family(pid)))
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mb(pid):
    # What several processes share counts for each of them.
    return sum(int(stat(p)[21]) for p in family(pid)) * os.sysconf("SC_PAGE_SIZE") / 2**20


def is_answered(at):
    connection = http.client.HTTPConnection("127.0.0.1", at.port, timeout=1)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", TARGETS[at.service])
        answer = connection.getresponse()
        return answer.status == 200 and b'"hello"' in answer.read()
    return False


@contextlib.contextmanager
def running(command, at):
    """Runs a server: its pid, and the seconds from its start to its first answer."""
    errors = at.folder / "errors"
    with open(at.folder / "log", "wb") as log, open(errors, "wb") as stderr:
        start = time.perf_counter()
        server = subprocess.Popen(list(map(str, command)), stdout=log, stderr=stderr)
    try:
        while not is_answered(at):
            if server.poll() is not None or time.perf_counter() - start > 20:
                sys.exit(f"bench: {command[0]} does not answer\n{errors.read_text()}")
            time.sleep(0.0005)
        yield server.pid, time.perf_counter() - start
    finally:
        pids = family(server.pid)
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            server.wait()


# ---- measuring ------------------------------------------------------------------------------------


def load(at, seconds, midway=lambda: None):
    """What wrk.lua prints, and what midway() gave while the load was on."""
    command = f"wrk -t1 -c{at.connections} -d{seconds}s --timeout 5s -s {HERE / 'wrk.lua'}"
    address = f"http://127.0.0.1:{at.port}{TARGETS[at.service]}"
    with subprocess.Popen([*command.split(), address], stdout=subprocess.PIPE, text=True) as wrk:
        try:
            time.sleep(seconds * 0.8)
            seen = midway()
            out, _ = wrk.communicate(timeout=seconds + 30)
        finally:
            wrk.kill()
    return [int(word) for word in out[out.index("RESULT") :].split()[1:]], seen


def measure(command, at, seconds):
    with running(command, at) as (pid, first_answer):
        load(at, 1)
        time.sleep(0.1)  # what that left under way
        before = cpu_seconds(pid)
        (requests, duration, p50, p99, failed), memory = load(at, seconds, lambda: resident_mb(pid))
        cpu = cpu_seconds(pid) - before
    return {
        "requests_per_s": round(requests / (duration / 1e6)),
        "p50_ms": p50 / 1e3,
        "p99_ms": p99 / 1e3,
        "cpu_us": round(cpu / requests * 1e6, 2),
        "memory_mb": round(memory, 1),
        "start_ms": round(first_answer * 1e3, 1),
        "failed": failed,
    }


def measure_all(args, folder):
    """Gives samples: what was measured, and the numbers."""
    for name in ("a", "server"):
        (folder / name).mkdir()
    port = free_port()
    a = Setting("a", port, port, 0, folder / "a")
    with running(nginx(a), a):
        for round_number in range(1, args.rounds + 1):
            for connections in args.connections:
                for service in "ab":
                    for name, (services, command) in SERVERS.items():
                        if service not in services:
                            continue
                        at = Setting(service, free_port(), port, connections, folder / "server")
                        numbers = measure(command(at), at, args.seconds)
                        yield {
                            "round": round_number,
                            "service": service,
                            "connections": connections,
                            "server": name,
                            **numbers,
                        }


# ---- telling --------------------------------------------------------------------------------------


def machine():
    def first(pattern, path):
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
        return next(line.split(pattern)[1] for line in lines if line.startswith(pattern))

    cpu = first("model name\t: ", "/proc/cpuinfo")
    system = first("PRETTY_NAME=", "/etc/os-release").strip('"')
    return f"{os.cpu_count()} cores of {cpu}, {system}, Linux {platform.release().split('-')[0]}"


def spread(values):
    middle = statistics.median(values)
    return f"{(max(values) - min(values)) / 2 / middle:4.0%}" if middle else ""


def table(samples, service, connections):
    rows = draw.by_server(samples, service, connections)
    lines = [
        f"{TITLES[service]}, {connections} connections",
        f"{'':18}{'requests/s':>11} {'+-':>5}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9} {'+-':>5}"
        f"{'MB':>7}{'start ms':>10}   ours/it: requests/s   CPU    p99",
    ]
    for server, numbers in rows.items():
        middle = {
            name: statistics.median(values)
            for name, values in numbers.items()
            if not isinstance(values[0], str)
        }
        line = (
            f"{server:18}{middle['requests_per_s']:11.0f} {spread(numbers['requests_per_s']):>5}"
            f"{middle['p50_ms']:9.3f}{middle['p99_ms']:9.3f}"
            f"{middle['cpu_us']:9.1f} {spread(numbers['cpu_us']):>5}"
            f"{middle['memory_mb']:7.1f}{middle['start_ms']:10.1f}"
        )
        if server != "ours":
            times = (
                statistics.median(x / y for x, y in zip(rows["ours"][name], numbers[name]))
                for name in ("requests_per_s", "cpu_us", "p99_ms")
            )
            line += " " * 17 + "".join(f"{each:7.2f}" for each in times)
        lines.append(line)
        if sum(numbers["failed"]):
            lines.append(f"{'':18}{sum(numbers['failed']):.0f} REQUESTS FAILED")
    return "\n".join(lines)


def tell(samples, args):
    counts = sorted({sample["connections"] for sample in samples})
    tables = [table(samples, service, count) for service in "ab" for count in counts]
    where = machine()
    text = "\n\n".join(
        [
            f"On {where}, load generator (wrk) on the same cores. Medians of {args.rounds} rounds of"
            f" {args.seconds} s; +- is half of what lies between the least and the most. Only the"
            " ratios mean something elsewhere.",
            *tables,
        ]
    )
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.txt").write_text(text + "\n", encoding="utf-8")
    with open(args.out / "results.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, samples[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(samples)
    (args.out / "speed.svg").write_text(draw.picture(samples, where), encoding="utf-8")
    print(f"\nbench: {args.out}/results.txt, results.csv (every sample) and speed.svg")


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench.sh")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="length of one measurement")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--quick", action="store_true", help="one round of 1 s, 64 connections")
    parser.add_argument("--out", type=pathlib.Path, default=BUILD / "bench", help="folder")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds, args.connections = 1, 1, [64]

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda *_: sys.exit(1))  # on the way out, the servers are ended
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        for sample in measure_all(args, pathlib.Path(folder)):
            samples.append(sample)
            print(*sample.values(), file=sys.stderr, sep="\t", flush=True)
    tell(samples, args)


main()
