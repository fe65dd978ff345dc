"""Plots as SVG: grouped bars on a logarithmic axis, and rates over time."""

import math
from xml.sax.saxutils import escape

# A system has one colour in every plot of a report.
COLOURS = {
    "HyperIP 2009": "#bbbbbb",
    "none": "#4477aa",
    "cubic": "#4477aa",
    "longhaul": "#cc3311",
    "cubic-64k": "#66ccee",
    "bbr": "#228833",
    "haproxy": "#ccbb44",
    "kcptun": "#aa3377",
    "quic": "#ee9966",
}
OTHER = "#222222"
WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 60
# Points of a line: more would only be noise.
BINS = 90
# How much longer than the fastest the time axis goes; what takes longer says so in the legend.
LONGEST = 4


def colour(name):
    return COLOURS.get(name, OTHER)


def text(x, y, words, anchor="middle", size=12, fill="#000000"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{fill}">{escape(str(words))}</text>'


def rule(y, words):
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
    return line + text(LEFT - 6, y + 4, words, "end")


def frame(title, vertical, parts, legend):
    """`legend`: (name, a second line or "")."""
    y = TOP
    for name, more in legend:
        parts.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{y}" width="12" height="12" fill="{colour(name)}"/>')
        parts.append(text(WIDTH - RIGHT + 30, y + 11, name, "start"))
        if more:
            y += 15
            parts.append(text(WIDTH - RIGHT + 30, y + 10, more, "start", size=10, fill="#666666"))
        y += 21
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<g transform="rotate(-90 16 {middle})">{text(16, middle, vertical)}</g>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">'
    body = f'<rect width="100%" height="100%" fill="white"/>{text((LEFT + WIDTH - RIGHT) / 2, 22, title, size=15)}'
    return head + body + "".join(parts) + "</svg>\n"


def in_two(words):
    """"rate, delay, loss, jitter" in two lines, where it is long."""
    items = words.split(", ")
    return [", ".join(items[:2]), ", ".join(items[2:])]


def bars(title, vertical, groups):
    """groups: (name, what it is, [(series, value or None, what to write before the value)])."""
    values = [value for *_, bars_of in groups for _, value, _ in bars_of if value]
    low = 10 ** math.floor(math.log10(min(values, default=1)))
    high = 10 ** math.ceil(math.log10(max(values, default=10) * 1.001))
    span = math.log10(high / low) or 1
    bottom = HEIGHT - BOTTOM

    def height(value):
        return bottom - (bottom - TOP) * math.log10(value / low) / span

    parts = []
    for exponent in range(round(math.log10(low)), round(math.log10(high)) + 1):
        for digit in (1, 2, 5):
            value = digit * 10**exponent
            if value <= high:
                parts.append(rule(height(value), f"{value:g}"))
    names = [name for name, *_ in groups[0][-1]] if groups else []
    wide = (WIDTH - LEFT - RIGHT) / max(len(groups), 1)
    bar = wide * 0.88 / max(len(names), 1)
    for place, (group, more, bars_of) in enumerate(groups):
        start = LEFT + wide * place + wide * 0.06
        parts.append(text(start + wide * 0.44, bottom + 18, group, size=13))
        for number, line in enumerate(in_two(more)):
            parts.append(text(start + wide * 0.44, bottom + 33 + 12 * number, line, size=10, fill="#666666"))
        for number, (name, value, before) in enumerate(bars_of):
            if value:
                x, y = start + bar * number, height(value)
                parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar * 0.9:.1f}" height="{bottom - y:.1f}" fill="{colour(name)}"/>')
                parts.append(text(x + bar * 0.45, y - 3, before + (f"{value:.0f}" if value >= 10 else f"{value:.1f}"), size=9))
    return frame(title, vertical, parts, [(name, "") for name in names])


def step_of(most, ticks=5):
    """The round distance of about `ticks` ticks up to `most`."""
    rough = most / ticks
    power = 10 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough)


def binned(line, wide):
    """[[end, rate]] as means over bins of `wide`: (middle, rate)."""
    bins, last = {}, 0.0
    for end, rate in line:
        place = int((last + end) / 2 / wide)
        amount, spent = bins.get(place, (0.0, 0.0))
        bins[place] = (amount + rate * (end - last), spent + end - last)
        last = end
    return [((place + 0.5) * wide, amount / spent) for place, (amount, spent) in sorted(bins.items()) if spent > 0]


def rates(title, horizontal, vertical, series, mark=None):
    """series: (name, [[end of an interval, rate in it]], seconds it took); `mark`: (a rate, what it is), a dashed line."""
    fastest = min((took for *_, took in series), default=1)
    longest = max((took for *_, took in series), default=1)
    far = min(longest, fastest * LONGEST) * 1.03 or 1
    shown = [(name, binned([point for point in line if point[0] <= far], far / BINS)) for name, line, _ in series]
    high = max([rate for _, line in shown for _, rate in line] + ([mark[0]] if mark else []) + [1]) * 1.05
    bottom = HEIGHT - BOTTOM
    wide = WIDTH - LEFT - RIGHT

    def at(x, y):
        return LEFT + wide * x / far, bottom - (bottom - TOP) * y / high

    parts = []
    step = step_of(high)
    for number in range(int(high / step) + 1):
        parts.append(rule(at(0, number * step)[1], f"{number * step:g}"))
    step = step_of(far, 8)
    for number in range(int(far / step) + 1):
        parts.append(text(at(number * step, 0)[0], bottom + 18, f"{number * step:g}"))
    parts.append(text(LEFT + wide / 2, bottom + 38, horizontal))
    if mark:
        y = at(0, mark[0])[1]
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#000000" stroke-dasharray="6 4"/>')
        parts.append(text(WIDTH - RIGHT - 4, y - 4, mark[1], "end", size=11))
    for name, line in shown:
        path = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in line)
        thick = 2.5 if name == "longhaul" else 1.3
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour(name)}" stroke-width="{thick}"/>')
    legend = [(name, f"{took:.1f} s" + (", goes on" if took > far else "")) for name, _, took in series]
    return frame(title, vertical, parts, legend)
