"""Two kinds of plots as SVG, for scripts/bench: lines on a logarithmic scale, and bars."""

import math
from html import escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760, 70, 150, 44, 44
COLOURS = ("#c1121f", "#1d3557", "#2a9d8f", "#8ab17d", "#e9a23b", "#6d597a", "#4895ef", "#9c6644", "#7f7f7f", "#000000")


def drawing(title: str, height: int, parts: list[str]) -> str:
    style = 'font-family="sans-serif" font-size="12" fill="#222"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {style}>'
    ground = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    return (
        "\n".join([head, ground, text(LEFT, 24, title, 'font-size="15" font-weight="bold"'), *parts, "</svg>"]) + "\n"
    )


def text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "#ddd") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def lines(title: str, series: dict[str, list[float]], height: int = 440) -> str:
    """One line per name, its values at 0, 1, 2, …; the scale is logarithmic."""
    values = [max(value, 0.001) for points in series.values() for value in points] or [1.0]
    low, high = math.log10(min(values)) - 0.05, math.log10(max(values)) + 0.05
    last = max((len(points) for points in series.values()), default=2) - 1
    floor = height - BOTTOM

    def x(number: int) -> float:
        return LEFT + number * (WIDTH - LEFT - RIGHT) / max(last, 1)

    def y(value: float) -> float:
        return floor - (math.log10(max(value, 0.001)) - low) * (floor - TOP) / (high - low)

    parts = []
    for tick in ticks(low, high):
        parts += [
            line(LEFT, y(tick), WIDTH - RIGHT, y(tick)),
            text(LEFT - 8, y(tick) + 4, f"{tick:,g}", 'text-anchor="end"'),
        ]
    for number in range(0, last + 1, max(1, last // 10)):
        parts.append(text(x(number), floor + 18, str(number), 'text-anchor="middle"'))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, floor + 36, "increments", 'text-anchor="middle"'))
    for points, colour in zip(series.values(), COLOURS, strict=False):
        path = " ".join(f"{x(number):.1f},{y(value):.1f}" for number, value in enumerate(points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    ends = {name: y(points[-1]) for name, points in series.items() if points}
    for name, height_of in apart(ends, 14, floor).items():
        words = f"{name} {series[name][-1]:,.0f}"
        parts.append(text(WIDTH - RIGHT + 8, height_of + 4, words, f'style="fill:{COLOURS[list(series).index(name)]}"'))
    return drawing(title, height, parts)


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two exponents."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [times * 10.0**power for power in powers for times in (1, 2, 5)]
    return [value for value in values if low <= math.log10(value) <= high]


def apart(heights: dict[str, float], gap: float, floor: float) -> dict[str, float]:
    """Moves labels up until no two overlap; the lowest stays."""
    placed: dict[str, float] = {}
    free = floor
    for name, height in sorted(heights.items(), key=lambda item: -item[1]):
        placed[name] = min(height, free)
        free = placed[name] - gap
    return placed


def bars(title: str, values: dict[str, float]) -> str:
    """One bar per name, the shortest first."""
    ordered = sorted(values.items(), key=lambda item: item[1])
    longest = max(values.values(), default=1.0) or 1.0
    parts = []
    for number, (name, value) in enumerate(ordered):
        top = TOP + 26 * number
        length = value * (WIDTH - LEFT - RIGHT - 20) / longest
        colour = COLOURS[list(values).index(name) % len(COLOURS)]
        parts.append(text(LEFT + 12, top + 14, name, 'text-anchor="end"'))
        parts.append(f'<rect x="{LEFT + 20}" y="{top}" width="{length:.1f}" height="18" fill="{colour}"/>')
        parts.append(text(LEFT + 26 + length, top + 14, f"{value:.2f}"))
    return drawing(title, TOP + 26 * len(ordered) + 16, parts)
