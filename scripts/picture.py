#!/usr/bin/env python3
"""The two halves of picture.sh: makes calls and writes down their answers, and draws them.

  picture.py record PORT INTERVAL    calls /call-echo every INTERVAL seconds until SIGTERM, whether or
                                     not earlier calls are answered; one line a call on stdout
  picture.py draw CALLS MARKS        an SVG on stdout
"""

import asyncio
import collections
import json
import math
import signal
import statistics
import sys
import time
from xml.sax.saxutils import escape

# ---- record -------------------------------------------------------------------------------------


class Caller:
    """Calls over kept-alive connections, a new one where none is free."""

    def __init__(self, port):
        self.port = port
        self.idle = []
        self.lines = []

    async def call(self):
        sent_at, start = time.time(), time.perf_counter()
        status, reason = 0, "no answer"
        try:
            async with asyncio.timeout(10):
                status, reason = await self.exchange()
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            print(f"picture: no answer: {error!r}", file=sys.stderr)
        latency = time.perf_counter() - start
        self.lines.append(f"{sent_at:.6f}\t{latency:.6f}\t{status}\t{reason}")

    async def exchange(self):
        if self.idle:
            reader, writer = self.idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /call-echo?msg=hello HTTP/1.1\r\nHost: service-b\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        body = json.loads(await reader.readexactly(int(fields[b"content-length"])))
        if fields.get(b"connection") == b"close":
            writer.close()
        else:
            self.idle.append((reader, writer))
        return status, body.get("reason", "")


async def record(port, interval):
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    caller, calls = Caller(port), set()
    next_at = time.monotonic()
    while not stopped.is_set():
        call = asyncio.create_task(caller.call())
        calls.add(call)
        call.add_done_callback(calls.discard)
        next_at += interval
        await asyncio.sleep(max(0.0, next_at - time.monotonic()))
    await asyncio.gather(*calls)
    print("\n".join(caller.lines))


# ---- draw ---------------------------------------------------------------------------------------

# What a dot means: its colour, and what the reader is told. Colours that the colour-blind can tell
# apart, and that are readable on white.
KINDS = {
    "200": ("#0a7d5c", "200"),
    "connection_refused": ("#d97706", "503 connection_refused"),
    "timeout": ("#c2183c", "503 timeout"),
    "overloaded": ("#6d4bd8", "503 overloaded"),
    "connection_closed": ("#0b6bcb", "503 connection_closed"),
    "other": ("#111827", "anything else"),
}
# What is done to Service A: the band behind the dots, and the ink of its name above them.
STATES = {
    "runs": ("none", "#57606a"),
    "killed": ("#fdf0dc", "#9a5403"),
    "hung": ("#fde8ec", "#a3122f"),
}
# What B does about it, written at that latency in the band where there are such answers.
NOTES = {
    ("killed", "connection_refused"): (0.06, "#9a5403", ["Nobody listens:", "B says so at once."]),
    ("hung", "timeout"): (0.55, "#a3122f", ["No answer within 1 s."]),
    ("hung", "overloaded"): (
        0.06,
        "#5a3ac2",
        ["64 calls wait already:", "one more is turned away at once."],
    ),
}
WAITED_NOTE = (0.35, "#0a6b4f", ["Those that still", "wait get the echo."])

WIDTH, HEIGHT = 960, 480
LEFT, RIGHT, TOP, BOTTOM = 84, 936, 150, 430
FASTEST, SLOWEST = 0.0001, 2.0
BUDGET = 1.0


def kind_of(status, reason):
    name = reason if status == 503 else str(status)
    return name if name in KINDS else "other"


def seconds_text(seconds):
    if seconds >= 0.9995:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.2g} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def draw(calls, marks):
    start, end = marks[0][0], marks[-1][0]
    calls = [call for call in calls if start <= call[0] < end]

    def x(at):
        return LEFT + (at - start) / (end - start) * (RIGHT - LEFT)

    def y(latency):
        share = math.log(min(max(latency, FASTEST), SLOWEST) / FASTEST) / math.log(SLOWEST / FASTEST)
        return BOTTOM - share * (BOTTOM - TOP)

    out = []

    def text(at_x, at_y, words, kind="", **attributes):
        more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
        out.append(f'<text x="{at_x:.1f}" y="{at_y:.1f}" class="{kind}"{more}>{escape(words)}</text>')

    by_kind = collections.defaultdict(list)
    for call in calls:
        by_kind[kind_of(*call[2:])].append(call)
    # In the order of first appearance, which is that of the story.
    kinds = sorted(by_kind, key=lambda kind: by_kind[kind][0][0])
    rate = round(len(calls) / (end - start))
    title = "What a caller of Service B sees while Service A fails"
    story = (
        f"GET /call-echo {rate} times a second: {len(calls):,} calls, every one answered. "
        "A dot is a call, where it was sent and how long its answer took."
    )

    out.append(
        f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title story">
<!-- Made by scripts/picture.sh from a run of both services. -->
<title id="title">{escape(title)}</title>
<desc id="story">{escape(story)}</desc>
<style>
text {{ font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; fill: #57606a }}
.title {{ font-size: 18px; font-weight: 600; fill: #1f2328 }}
.name {{ font-weight: 600 }}
.key {{ fill: #1f2328 }}
.code {{ font-family: ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; font-size: 12px }}
.dots {{ fill: none; stroke-width: 4.4; stroke-linecap: round; stroke-opacity: .7 }}
</style>
<rect x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8" fill="#fff" stroke="#d0d7de"/>"""
    )
    text(24, 34, title, "title")
    text(24, 56, story)

    # The legend: how many, and how long the typical one took. SVG cannot tell how wide a text is.
    legend = []
    for kind in kinds:
        median = seconds_text(statistics.median(call[1] for call in by_kind[kind]))
        words, numbers = KINDS[kind][1], f"{len(by_kind[kind])} \u00d7, median {median}"
        legend.append((kind, words, numbers, 17 + max(8 * len(words), 7 * len(numbers))))
    spare = WIDTH - 48 - sum(width for *_, width in legend)
    gap = max(8, min(72, spare / max(1, len(legend) - 1)))
    left = 24.0
    for kind, words, numbers, width in legend:
        out.append(f'<circle cx="{left + 5:.1f}" cy="79" r="5" fill="{KINDS[kind][0]}"/>')
        text(left + 17, 83.5, words, "key name")
        text(left + 17, 100, numbers)
        left += width + gap

    # What is done to Service A.
    for (at, state, name, command), (until, *_) in zip(marks, marks[1:]):
        fill, ink = STATES[state]
        if fill != "none":
            out.append(
                f'<rect x="{x(at):.1f}" y="{TOP - 36}" width="{x(until) - x(at):.1f}"'
                f' height="{BOTTOM - TOP + 36}" fill="{fill}"/>'
            )
        text(x(at) + 7, TOP - 20, name, "name", style=f"fill:{ink}")
        if command:
            text(x(at) + 7, TOP - 5, command, "code", style=f"fill:{ink}")

    # The axes.
    for power, label in ((-4, "0.1 ms"), (-3, "1 ms"), (-2, "10 ms"), (-1, "100 ms"), (0, "1 s")):
        at = y(10.0**power)
        if power < 0:
            out.append(f'<path d="M{LEFT} {at:.1f}H{RIGHT}" stroke="#d0d7de" stroke-opacity=".7"/>')
        text(LEFT - 8, at + 4.5, label, text_anchor="end")
    out.append(f'<path d="M{LEFT} {BOTTOM}H{RIGHT}" stroke="#8c959f"/>')
    for second in range(math.floor(end - start) + 1):
        at = x(start + second)
        out.append(f'<path d="M{at:.1f} {BOTTOM}v5" stroke="#8c959f"/>')
        text(at, BOTTOM + 20, str(second), text_anchor="middle")
    text(RIGHT, BOTTOM + 38, "time of the call, in seconds", text_anchor="end")
    middle = (TOP + BOTTOM) / 2
    text(0, 0, "latency", text_anchor="middle", transform=f"translate(18 {middle}) rotate(-90)")
    at = y(BUDGET)
    out.append(f'<path d="M{LEFT} {at:.1f}H{RIGHT}" stroke="#c2183c" stroke-dasharray="5 4"/>')
    text(LEFT + 7, at - 6, "B's time budget", style=f"fill:{STATES['hung'][1]}")

    for kind in kinds:
        dots = "".join(f"M{x(call[0]):.1f} {y(call[1]):.1f}h0" for call in by_kind[kind])
        out.append(f'<path class="dots" stroke="{KINDS[kind][0]}" d="{dots}"/>')

    # What the dots mean.
    def note(at, latency, ink, lines):
        for number, line in enumerate(lines):
            text(x(at) + 7, y(latency) + 17 * number, line, style=f"fill:{ink}")

    for (at, state, *_), (until, *_) in zip(marks, marks[1:]):
        here = [call for call in calls if at <= call[0] < until]
        for (noted_state, kind), words in NOTES.items():
            if state == noted_state and any(kind_of(*call[2:]) == kind for call in here):
                note(at, *words)
        if state == "hung" and any(call[2] == 200 and call[1] > 0.1 for call in here):
            note(until, *WAITED_NOTE)
    out.append("</svg>")
    return "\n".join(out)


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [line.rstrip("\n").split("\t") for line in lines]


def main(arguments):
    match arguments:
        case ["record", port, interval]:
            asyncio.run(record(int(port), float(interval)))
        case ["draw", calls_path, marks_path]:
            calls = [
                (float(sent_at), float(latency), int(status), reason)
                for sent_at, latency, status, reason in read(calls_path)
            ]
            marks = [(float(at), *words) for at, *words in read(marks_path)]
            if any(status == 0 for _, _, status, _ in calls):
                sys.exit("picture: some calls had no answer")
            print(draw(calls, marks))
        case _:
            sys.exit(__doc__)


main(sys.argv[1:])
