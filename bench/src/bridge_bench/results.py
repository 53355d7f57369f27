"""The results of runs, as JSON: a figure that is measured again replaces its former self, the others stay."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bridge_bench.runs import Row
from bridge_bench.targets import targets

Results = dict[str, dict[str, Any]]
"""By figure: ``rows``, and how they came about: ``date``, ``command``, ``machine``, ``versions``, ``rounds``."""


def read(file: Path) -> Results:
    """The results of earlier runs; empty if the file does not exist."""
    if not file.exists():
        return {}
    results: Results = json.loads(file.read_text("utf-8"))["figures"]
    return results


def write(file: Path, results: Results) -> None:
    """The figures, and the targets as they stand with them."""
    judged = [asdict(target) for target in targets(rows_of(results))]
    content = {"figures": _finite(results), "targets": judged}
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def rows_of(results: Results) -> dict[str, list[Row]]:
    """The rows by figure."""
    return {name: result["rows"] for name, result in results.items()}


def _finite(value: Any) -> Any:
    """Replace NaN by null, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
