"""Draws what bench.py measured, as an SVG: one row a server, one column a number."""

import collections
import math
import statistics
from xml.sax.saxutils import escape

TITLES = {"a": "Service A", "b": "Service B"}
COLUMNS = (
    ("requests_per_s", "requests a second", "more is better"),
    ("cpu_us", "CPU time of a request, \u00b5s", "less is better"),
    ("p99_ms", "p99 of the latency, ms", "less is better"),
)
OURS, OTHER = "#0a7d5c", "#57606a"
WIDTH, LEFT, RIGHT, GAP = 960, 150, 936, 30
ROW, FIRST, BETWEEN = 25, 176, 64


def by_server(samples, service, connections):
    """server -> name of the number -> its value in each round."""
    out = collections.defaultdict(lambda: collections.defaultdict(list))
    for sample in samples:
        if (sample["service"], sample["connections"]) == (service, connections):
            for name, value in sample.items():
                out[sample["server"]][name].append(value)
    return out


def picture(samples, where):
    counts = {sample["connections"] for sample in samples}
    connections = 64 if 64 in counts else max(counts)
    panels = {service: by_server(samples, service, connections) for service in TITLES}
    for rows in panels.values():
        rows.pop("ours, no log", None)
    rounds = max(sample["round"] for sample in samples)
    rows_high = sum(ROW * len(rows) for rows in panels.values())
    height = FIRST + rows_high + BETWEEN * (len(panels) - 1) + 36
    title = f"Our services beside others, {connections} connections"
    notes = (
        "Each does the same work, a log line included; every B calls the same A. "
        f"Dots: medians of {rounds} rounds; lines: from the least to the most.",
        f"{where}.",
        "The load generator shares the cores. Only the ratios mean something elsewhere.",
    )
    out = [
        f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title notes">
<!-- Made by scripts/bench.sh from a run of all servers. -->
<title id="title">{escape(title)}</title>
<desc id="notes">{escape(" ".join(notes))}</desc>
<style>
text {{ font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; fill: {OTHER} }}
.title {{ font-size: 18px; font-weight: 600; fill: #1f2328 }}
.name {{ font-weight: 600; fill: #1f2328 }}
.ours {{ font-weight: 600; fill: {OURS} }}
.end {{ text-anchor: end }}
.middle {{ text-anchor: middle }}
</style>
<rect x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="#fff" stroke="#d0d7de"/>"""
    ]

    def text(x, y, words, kind=""):
        out.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(words)}</text>')

    def number_text(value):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    def line(path, stroke):
        out.append(f'<path d="{path}" stroke="{stroke}"/>')

    text(24, 34, title, "title")
    for number, note in enumerate(notes):
        text(24, 56 + 18 * number, note)

    width = (RIGHT - LEFT - GAP * (len(COLUMNS) - 1)) / len(COLUMNS)
    for number, (key, name, better) in enumerate(COLUMNS):
        left = LEFT + number * (width + GAP)
        values = [x for rows in panels.values() for numbers in rows.values() for x in numbers[key]]
        # Equal distances are equal ratios.
        low, high = math.log10(min(values) * 0.9), math.log10(max(values) * 1.1)

        def x_of(value):
            return left + (math.log10(value) - low) / (high - low) * width

        text(left, FIRST - 44, name, "name")
        text(left, FIRST - 26, better)
        y = FIRST
        for service, rows in panels.items():
            bottom = y + ROW * len(rows)
            for power in range(math.ceil(low), math.floor(high) + 1):
                line(f"M{x_of(10**power):.1f} {y - 8}V{bottom}", "#d0d7de")
                text(x_of(10**power), bottom + 16, f"{10.0**power:,g}", "middle")
            line(f"M{left:.1f} {bottom}h{width:.1f}", "#8c959f")
            if number == 0:
                text(24, y - 8, TITLES[service], "name")
            for row, (server, numbers) in enumerate(rows.items()):
                at = y + ROW * row + 12
                kind, ink = ("ours", OURS) if server == "ours" else ("", OTHER)
                least, most = x_of(min(numbers[key])), x_of(max(numbers[key]))
                middle = statistics.median(numbers[key])
                if number == 0:
                    text(24, at + 4.5, server, kind)
                line(f"M{least:.1f} {at}H{most:.1f}", ink)
                out.append(f'<circle cx="{x_of(middle):.1f}" cy="{at}" r="4.5" fill="{ink}"/>')
                if most < left + width * 0.75:
                    text(most + 10, at + 4.5, number_text(middle), kind)
                else:
                    text(least - 10, at + 4.5, number_text(middle), f"{kind} end")
            y = bottom + BETWEEN
    out.append("</svg>")
    return "\n".join(out) + "\n"
