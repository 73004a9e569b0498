"""A bar chart as SVG, on a log scale: one number for each label."""

import math
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

DARK = """<style>@media (prefers-color-scheme: dark) {
text { fill: #d6d6d6 } [fill="#777"] { fill: #9a9a9a } [fill="#fff"] { fill: #16191d }
[stroke="#ddd"] { stroke: #33383f } [stroke="#bbb"] { stroke: #5c636c }
[fill="#b0b0b0"] { fill: #7d848c }
[fill="#2a78b8"] { fill: #4d9ad6 } [stroke="#2a78b8"] { stroke: #4d9ad6 }
[fill="#1b7f3b"] { fill: #3fb46a } [stroke="#1b7f3b"] { stroke: #3fb46a } }</style>"""
"""The dark variant of every picture that is drawn here."""

_WIDTH, _LABEL, _VALUE, _BAR, _GAP, _TOP = 800, 270, 90, 22, 8, 48


def draw(path: Path, title: str, values: Mapping[str, float], highlight: str) -> None:
    """Write the chart; a bar whose label begins with ``highlight`` has another colour."""
    decades = [
        math.floor(math.log10(min(values.values()))),
        math.ceil(math.log10(max(values.values()))),
    ]
    scale = (_WIDTH - _LABEL - _VALUE) / (decades[1] - decades[0])
    height = _TOP + len(values) * (_BAR + _GAP) + 24
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
    parts = [
        start + 'font-family="sans-serif" font-size="13">',
        DARK,
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="26" font-size="16">{escape(title)}</text>',
    ]
    for decade in range(decades[0], decades[1] + 1):
        x = round(_LABEL + (decade - decades[0]) * scale)
        number = f"{10**decade:,}"
        parts += [
            f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{height - 22}" stroke="#ddd"/>',
            f'<text x="{x}" y="{height - 6}" text-anchor="middle" fill="#777">{number}</text>',
        ]
    for place, (label, value) in enumerate(values.items()):
        y = _TOP + place * (_BAR + _GAP)
        length = (math.log10(value) - decades[0]) * scale
        colour = "#2a78b8" if label.startswith(highlight) else "#b0b0b0"
        middle = y + _BAR - 6
        parts += [
            f'<text x="{_LABEL - 8}" y="{middle}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{_LABEL}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<text x="{_LABEL + length + 6:.1f}" y="{middle}">{value:,.0f}</text>',
        ]
    path.write_text("\n".join([*parts, "</svg>", ""]))
