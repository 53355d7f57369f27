"""Bar charts as SVG, readable on light and dark pages.

Written here: a chart of ours is forty elements, and what libraries draw carries scripts and styles that a page of
Markdown does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_CHART_WIDTH: Final = 760
_LABELS_WIDTH: Final = 200
_VALUES_WIDTH: Final = 80
_BAR_HEIGHT: Final = 18
_BAR_STEP: Final = 26
_TOP_MARGIN: Final = 40
_COLOURS: Final = {"bridge": "#2f81f7", "peer": "#8b949e", "floor": "#57ab5a"}
_TEXT_COLOUR: Final = "#768390"
_TEXT_STYLE: Final = f'font-family="system-ui, sans-serif" font-size="13" fill="{_TEXT_COLOUR}"'


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: left of it.
        value: its length.
        text: right of it.
        kind: its colour: bridge, peer or floor.
    """

    label: str
    value: float
    text: str
    kind: str


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """An SVG document with one horizontal bar a line, the longest over the whole width."""
    longest = max((bar.value for bar in bars), default=0.0) or 1.0
    room = _CHART_WIDTH - _LABELS_WIDTH - _VALUES_WIDTH
    height = _TOP_MARGIN + _BAR_STEP * len(bars) + 8
    size = f'viewBox="0 0 {_CHART_WIDTH} {height}" width="{_CHART_WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {_TEXT_STYLE} role="img" aria-label="{escape(title)}">',
        f'<text x="0" y="20" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for number, bar in enumerate(bars):
        top = _TOP_MARGIN + _BAR_STEP * number
        middle = top + _BAR_HEIGHT - 5
        width = max(1.0, bar.value / longest * room)
        colour = _COLOURS.get(bar.kind, _COLOURS["peer"])
        lines += [
            f'<text x="{_LABELS_WIDTH - 8}" y="{middle}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect x="{_LABELS_WIDTH}" y="{top}" width="{width:.1f}" height="{_BAR_HEIGHT}" rx="2" fill="{colour}"/>',
            f'<text x="{_LABELS_WIDTH + width + 6:.1f}" y="{middle}">{escape(bar.text)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
