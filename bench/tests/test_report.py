from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from bridge_bench import report, results
from bridge_bench.charts import Bar, bar_chart
from bridge_bench.figures import FIGURES
from bridge_bench.runs import Bench, Row, interleaved
from bridge_bench.targets import targets

FIGURE = FIGURES["throughput"].FIGURE
ROWS: list[Row] = [
    {"name": "letta-bridge", "kind": "bridge", "tasks_per_second": 2000.0, "cpu": 0.2, "redis_cpu": 0.1, "order": "yes",
     "survives": "yes", "relative": 1.0},
    {"name": "peer <1>", "kind": "peer", "tasks_per_second": 500.0, "cpu": 0.8, "redis_cpu": float("nan"),
     "order": "no", "survives": "no", "relative": 0.25},
    {"name": "broken", "kind": "peer", "failed": "the worker ended"},
]  # fmt: skip


@pytest.fixture
def measured() -> dict[str, dict[str, Any]]:
    about = {
        "date": "2026-01-01",
        "command": "./run bench",
        "machine": "a machine",
        "load": 0.1,
        "versions": "Python 3",
        "stub": "9 turns/s",
    }
    return {"throughput": {**about, "rounds": 3, "rows": ROWS}}


def test_table_shows_ratios_and_failures() -> None:
    console = Console(width=150, record=True, file=None, quiet=False)
    with console.capture() as printed:
        report.print_figure(console, FIGURE, ROWS)
    lines = [line.split() for line in printed.get().splitlines()]
    assert ["peer", "<1>", "500", "0.25", "×", "0.800", "–", "no", "no"] in lines
    assert "broken: the worker ended" in printed.get()


def test_results_of_another_run_stay(tmp_path: Path, measured: dict[str, dict[str, Any]]) -> None:
    file = tmp_path / "results.json"
    assert results.read(file) == {}
    results.write(file, measured)
    results.write(file, results.read(file) | {"memory": {"rows": []}})
    again = results.read(file)
    assert list(again) == ["throughput", "memory"]
    assert again["throughput"]["rows"][1]["redis_cpu"] is None
    assert [target["met"] for target in json.loads(file.read_text())["targets"]] == [True, True]


def test_the_page_names_targets_machine_and_charts(tmp_path: Path, measured: dict[str, dict[str, Any]]) -> None:
    report.write_page(tmp_path, [FIGURE, FIGURES["memory"].FIGURE], measured)
    page = (tmp_path / "performance.md").read_text()
    assert "| throughput against the fastest peer (peer <1>) | at least 2 × | 4.00 × | met |" in page
    assert "| **letta-bridge** | 2,000 | 1.00 × | 0.200 | 0.100 | yes | yes |" in page
    assert "2026-01-01, `./run bench`, median of 3 rounds, on a machine" in page
    assert "Memory" not in page
    for chart in FIGURE.charts:
        assert f"(charts/{chart.file}.svg)" in page
        assert ET.parse(tmp_path / "charts" / f"{chart.file}.svg").getroot().tag.endswith("svg")  # noqa: S314 - ours


def test_bars_are_as_long_as_their_values() -> None:
    chart = ET.fromstring(bar_chart("a & b", [Bar("x", 10, "10", "bridge"), Bar("<y>", 5, "5", "peer")]))  # noqa: S314
    widths = [float(bar.get("width", "")) for bar in chart.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] == pytest.approx(2 * widths[1])
    assert not list(ET.fromstring(bar_chart("nothing", [])).iter("{http://www.w3.org/2000/svg}rect"))  # noqa: S314


def test_missed_targets_are_named(measured: Any) -> None:
    measured["throughput"]["rows"] = [{**ROWS[0], "tasks_per_second": 600.0}, *ROWS[1:]]
    console = Console(width=150)
    with console.capture() as printed:
        report.print_targets(console, targets(results.rows_of(measured)))
    assert "missed  throughput against the fastest peer (peer <1>): 1.20 ×, at least 2 ×" in printed.get()


def test_rounds_take_turns_and_a_row_is_their_median(bench: Bench) -> None:
    order = []

    def measure(item: Any) -> dict[str, Any]:
        order.append(item)
        return {"value": {"a": [1, 30, 2], "b": [4, 5, 6]}[item][order.count(item) - 1]}

    rows = interleaved(bench, "figure", ("a", "b"), measure, rounds=lambda item: 3 if item == "a" else 2)
    assert order == ["a", "b", "b", "a", "a"]
    assert [(row["name"], row["value"]) for row in rows] == [("a", 2), ("b", 4.5)]
