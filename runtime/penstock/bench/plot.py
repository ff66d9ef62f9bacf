"""Small line charts as SVG, written by hand so that no plotting library is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 360, 220, 44
BAR, GAP, NAMES, SCALE = 12, 10, 260, 4.0  # pixels of a bar, between groups, of their names, and of one percent
COLOURS = ("#06c", "#888", "#b60", "#595")


def write_plot(file: Path, curves: Mapping[float, Mapping[str, float]]) -> None:
    """One chart per figure, side by side: its value (from 0) over the keys of `curves`."""
    names = list(next(iter(curves.values())))
    charts = "".join(
        f'<g transform="translate({index * WIDTH} 0)">'
        f"{chart(name, {x: figures[name] for x, figures in curves.items()})}</g>"
        for index, name in enumerate(names)
    )
    size = f'width="{WIDTH * len(names)}" height="{HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11" fill="#222"'
    file.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{charts}</svg>\n')


def chart(name: str, points: Mapping[float, float]) -> str:
    """Axes with their ends named, and the points joined by a line; points that are not numbers are left out."""
    finite = {x: y for x, y in points.items() if y == y}
    most_x, most_y = max(points), max([*finite.values(), 1e-9])
    right, bottom = WIDTH - 12, HEIGHT - MARGIN

    def place(x: float, y: float) -> tuple[float, float]:
        return MARGIN + x / most_x * (right - MARGIN), bottom - y / most_y * (bottom - MARGIN)

    places = [place(x, y) for x, y in finite.items()]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#06c"/>' for x, y in places)
    axes = f"M{MARGIN} {MARGIN} V{bottom} H{right}"
    return (
        f'<path d="{axes}" fill="none" stroke="#888"/>'
        f'<polyline points="{path}" fill="none" stroke="#06c"/>{dots}'
        f'<text x="{MARGIN}" y="{MARGIN - 14}" font-weight="bold">{name}</text>'
        f'<text x="{MARGIN - 4}" y="{MARGIN + 4}" text-anchor="end">{most_y:.3g}</text>'
        f'<text x="{right}" y="{bottom + 16}" text-anchor="end">{most_x:g} req/s offered</text>\n'
    )


def write_bars(file: Path, groups: Mapping[str, Mapping[str, float]]) -> None:
    """Horizontal bars in percent, those of one group together; a colour for each name."""
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    parts, y = [], 2 * BAR + GAP
    for index, name in enumerate(names):
        x = NAMES + index * 110
        parts.append(f'<rect x="{x}" y="0" width="{BAR}" height="{BAR}" fill="{colours[name]}"/>')
        parts.append(f'<text x="{x + BAR + 4}" y="{BAR - 1}">{name}</text>')
    for group, bars in groups.items():
        middle = y + len(bars) * BAR / 2 + 4
        parts.append(f'<text x="{NAMES - 8}" y="{middle:g}" text-anchor="end">{group}</text>')
        for name, percent in bars.items():
            width = max(1.0, percent * SCALE)
            parts.append(f'<rect x="{NAMES}" y="{y}" width="{width:.0f}" height="{BAR - 1}" fill="{colours[name]}"/>')
            parts.append(f'<text x="{NAMES + width + 4:.0f}" y="{y + BAR - 2}">{percent:.0f} %</text>')
            y += BAR
        y += GAP
    size = f'width="{NAMES + 110 * SCALE + 60:.0f}" height="{y}"'
    style = 'font-family="sans-serif" font-size="11" fill="#222"'
    file.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "\n</svg>\n")
