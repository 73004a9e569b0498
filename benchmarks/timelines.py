"""Values second by second as SVG: one line for each label, on a log scale."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from bars import DARK

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 760, 320, 60, 64, 34
_COLOURS = ("#b0b0b0", "#2a78b8")


def draw(
    path: Path, title: str, lines: Mapping[str, Sequence[int]], seconds: int, mark: int
) -> None:
    """Write the chart of this number of seconds; ``mark`` is a value for a dashed line."""
    decades = math.ceil(math.log10(max(max(values[:seconds]) for values in lines.values())))
    width, height = _WIDTH - _LEFT - 16, _HEIGHT - _TOP - _BOTTOM

    def x(second: float) -> float:
        return round(_LEFT + width * second / seconds, 1)

    def y(value: float) -> float:
        return round(_TOP + height * (1 - math.log10(max(value, 1)) / decades), 1)

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 0 {_WIDTH + 24} {_HEIGHT}" '
            'font-family="sans-serif" font-size="13">'
        ),
        DARK,
        f'<rect x="-12" width="{_WIDTH + 24}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="12" y="26" font-size="16">{escape(title)}</text>',
    ]
    for value in (10**decade for decade in range(decades + 1)):
        parts += [
            (
                f'<line x1="{_LEFT}" x2="{_LEFT + width}" y1="{y(value)}" y2="{y(value)}" '
                'stroke="#ddd"/>'
            ),
            (
                f'<text x="{_LEFT - 8}" y="{y(value) + 4}" text-anchor="end" fill="#777">'
                f"{value:,}</text>"
            ),
        ]
    parts += [
        f'<text x="{x(second)}" y="{_HEIGHT - 12}" text-anchor="middle" fill="#777">{second} s'
        "</text>"
        for second in range(0, seconds + 1, seconds // 6)
    ]
    for number, (label, values) in enumerate(lines.items()):
        points = " ".join(f"{x(at)},{y(value)}" for at, value in enumerate(values[:seconds]))
        colour = _COLOURS[number]
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            f'<text x="{_LEFT + 250 * number}" y="50" fill="{colour}">{escape(label)}</text>',
        ]
    parts.append(
        f'<line x1="{_LEFT}" x2="{_LEFT + width}" y1="{y(mark)}" y2="{y(mark)}" '
        'stroke="#c33" stroke-dasharray="4 4"/>'
    )
    path.write_text("\n".join([*parts, "</svg>", ""]))
