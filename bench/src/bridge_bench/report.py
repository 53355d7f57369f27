"""Renders results as tables on a terminal, and as a page with charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bridge_bench.charts import Bar, bar_chart
from bridge_bench.figure import Bars, Figure
from bridge_bench.results import Results, rows_of
from bridge_bench.runs import Row
from bridge_bench.targets import Target, targets

_PAGE_HEAD = """# Performance

What the bridge costs, against the job queues one would pick instead and against what Python can do at all. Everything
here is written by `./run bench --docs`; absolute figures are one machine's, the ratios hold.

Everybody does the same work: a task of about 300 bytes waits in Redis, is POSTed to the same stub Letta in a process of
its own, which answers about 1 KB, and the answer is published. The peers do that with what they are: no order of a
user's tasks, and mostly no survival of a kill. The bridge does it with all its promises on: leases, order, kept
replies, fencing, its session file, metrics and health. Peers run as their documentation says for the most throughput,
in one worker process, on uvloop where they let one choose; the floors are workers written by hand for nothing but
speed.
"""


def print_figure(console: Console, figure: Figure, rows: Sequence[Row]) -> None:
    """One table."""
    table = Table(title=figure.title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column(figure.first)
    for column in figure.columns:
        table.add_column(column.title, justify="right")
    for row in rows:
        table.add_row(row["name"], *_cells(figure, row))
    console.print(table)
    for row in rows:
        if "failed" in row:
            console.print(f"{row['name']}: {row['failed']}", highlight=False, markup=False)
    console.print()


def print_targets(console: Console, judged: Sequence[Target]) -> None:
    """Each target, and whether it is met."""
    for target in judged:
        mark = "[green]met[/green]" if target.met else "[red]missed[/red]"
        console.print(f"{mark}  {target.name}: {target.measured}, {target.goal}", highlight=False)


def write_page(docs: Path, figures: Sequence[Figure], results: Results) -> None:
    """docs/performance.md and its charts under docs/charts/."""
    (docs / "charts").mkdir(exist_ok=True)
    parts = [_PAGE_HEAD, _targets(targets(rows_of(results)))]
    parts += [_section(docs, figure, results[figure.name]) for figure in figures if figure.name in results]
    (docs / "performance.md").write_text("\n".join(parts), "utf-8")


def _section(docs: Path, figure: Figure, result: dict[str, Any]) -> str:
    rows: list[Row] = result["rows"]
    lines = [f"## {figure.title}", "", figure.explanation, ""]
    lines += [_line([figure.first, *(column.title for column in figure.columns)])]
    lines += ["|---|" + "---:|" * len(figure.columns)]
    for row in rows:
        name = f"**{row['name']}**" if row.get("kind") == "bridge" else str(row["name"])
        lines.append(_line([name, *_cells(figure, row)]))
    lines.append("")
    lines += [f"{row['name']}: {row['failed']}\n" for row in rows if "failed" in row]
    for chart in figure.charts:
        file = docs / "charts" / f"{chart.file}.svg"
        file.write_text(_drawn(chart, rows), "utf-8")
        lines += [f"![{chart.title}](charts/{file.name})", ""]
    lines.append(
        f"{result['date']}, `{result['command']}`, median of {result['rounds']} rounds, on {result['machine']}; load "
        f"average before the run {result['load']:.1f}; the stub Letta answers {result['stub']}. {result['versions']}."
    )
    return "\n".join([*lines, ""])


def _targets(judged: Sequence[Target]) -> str:
    lines = ["## Targets", "", _line(["", "goal", "measured", ""]), "|---|---|---|---|"]
    lines += [
        _line([target.name, target.goal, target.measured, "met" if target.met else "**missed**"]) for target in judged
    ]
    return "\n".join([*lines, ""])


def _drawn(chart: Bars, rows: Sequence[Row]) -> str:
    bars = [
        Bar(row["name"], row[chart.key], chart.form.format(row[chart.key]), row.get("kind", "bridge"))
        for row in rows
        if row.get(chart.key) is not None
    ]
    return bar_chart(chart.title, bars)


def _cells(figure: Figure, row: Row) -> list[str]:
    return [column.text(row) for column in figure.columns]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
