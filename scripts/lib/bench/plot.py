"""Plots as SVG: grouped bars on a logarithmic axis, and lines."""

import math
from xml.sax.saxutils import escape

COLOURS = ["#999999", "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#222222"]
WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 40, 50


def text(x, y, words, anchor="middle", size=12):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(str(words))}</text>'


def rule(y, words):
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
    return line + text(LEFT - 6, y + 4, words, "end")


def frame(title, vertical, parts, legend):
    for number, (name, colour) in enumerate(legend):
        y = TOP + 20 * number
        parts.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{y}" width="12" height="12" fill="{colour}"/>')
        parts.append(text(WIDTH - RIGHT + 30, y + 11, name, "start"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<g transform="rotate(-90 16 {middle})">{text(16, middle, vertical)}</g>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">'
    body = f'<rect width="100%" height="100%" fill="white"/>{text((LEFT + WIDTH - RIGHT) / 2, 22, title, size=15)}'
    return head + body + "".join(parts) + "</svg>\n"


def bars(title, vertical, groups):
    """groups: (name, [(series, value or None)])."""
    values = [value for _, bars_of in groups for _, value in bars_of if value]
    low = 10 ** math.floor(math.log10(min(values, default=1)))
    high = 10 ** math.ceil(math.log10(max(values, default=10) * 1.001))
    span = math.log10(high / low) or 1
    bottom = HEIGHT - BOTTOM

    def height(value):
        return bottom - (bottom - TOP) * math.log10(value / low) / span

    parts = []
    for exponent in range(round(math.log10(low)), round(math.log10(high)) + 1):
        parts.append(rule(height(10**exponent), f"{10**exponent:g}"))
    names = [name for name, _ in groups[0][1]] if groups else []
    wide = (WIDTH - LEFT - RIGHT) / max(len(groups), 1)
    bar = wide * 0.85 / max(len(names), 1)
    for place, (group, bars_of) in enumerate(groups):
        start = LEFT + wide * place + wide * 0.075
        parts.append(text(start + wide * 0.425, bottom + 18, group))
        for number, (_, value) in enumerate(bars_of):
            if value:
                x, y = start + bar * number, height(value)
                colour = COLOURS[number % len(COLOURS)]
                parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar * 0.92:.1f}" height="{bottom - y:.1f}" fill="{colour}"/>')
                parts.append(text(x + bar / 2, y - 3, f"{value:.0f}" if value >= 10 else f"{value:.1f}", size=10))
    return frame(title, vertical, parts, [(name, COLOURS[number % len(COLOURS)]) for number, name in enumerate(names)])


def lines(title, horizontal, vertical, series):
    """series: (name, [[x, y]])."""
    points = [point for _, line in series for point in line] or [[1, 1]]
    far, high = max(x for x, _ in points) or 1, max(y for _, y in points) * 1.05 or 1
    bottom = HEIGHT - BOTTOM
    wide = WIDTH - LEFT - RIGHT
    parts = []
    for tick in range(6):
        parts.append(rule(bottom - (bottom - TOP) * tick / 5, f"{high * tick / 5:.0f}"))
        parts.append(text(LEFT + wide * tick / 5, bottom + 18, f"{far * tick / 5:.1f}"))
    parts.append(text(LEFT + wide / 2, bottom + 38, horizontal))
    for number, (_, line) in enumerate(series):
        path = " ".join(f"{LEFT + wide * x / far:.1f},{bottom - (bottom - TOP) * y / high:.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[(number + 1) % len(COLOURS)]}" stroke-width="1.5"/>')
    legend = [(name, COLOURS[(number + 1) % len(COLOURS)]) for number, (name, _) in enumerate(series)]
    return frame(title, vertical, parts, legend)
