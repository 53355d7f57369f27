"""The definition of a figure: its columns, charts and notes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bridge_bench.runs import Row


@dataclass(frozen=True)
class Column:
    """A value of each row.

    Attributes:
        key: in the row.
        title: above it.
        form: a format string for the value.
    """

    key: str
    title: str
    form: str = "{:,.0f}"

    def text(self, row: Row) -> str:
        """The value as printed; a dash where there is none."""
        value = row.get(self.key)
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        return "–" if missing else self.form.format(value)


@dataclass(frozen=True)
class Bars:
    """A bar chart over the rows.

    Attributes:
        file: name of the SVG file, without its ending.
        title: above the bars.
        key: of the value.
        form: a format string for the value.
    """

    file: str
    title: str
    key: str
    form: str


@dataclass(frozen=True)
class Figure:
    """One table of the report, with its charts."""

    name: str
    title: str
    explanation: str
    columns: Sequence[Column]
    charts: Sequence[Bars] = ()
    first: str = "who"
    """Title of the rows' names."""
