"""Interleaved rounds, so that other load on the machine affects all contenders alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bridge_bench.contenders import Contender
from bridge_bench.errors import BenchError
from bridge_bench.harness import Harness, Load

Sample = Mapping[str, float]
"""What one round measured, by the column's key."""
Row = dict[str, Any]
"""A line of a figure: ``name``, the medians by key, and ``samples``; or ``name`` and ``failed``, a sentence."""

_Item = TypeVar("_Item")


@dataclass
class Options:
    """What the caller chose.

    Attributes:
        tasks: that count in a throughput round.
        rounds: of which the medians are told.
        concurrency: tasks in flight at most.
        users: over whom tasks are spread.
        subjects: who is measured.
        patience: seconds a killed worker's tasks are waited for.
        large: the sizes that take minutes, too.
    """

    tasks: int
    rounds: int
    concurrency: int
    users: int
    contenders: Sequence[Contender]
    patience: float
    large: bool


@dataclass
class Bench:
    """A run in progress.

    Attributes:
        step: told what is measured next: the figure, who, and the round.
    """

    harness: Harness
    options: Options
    step: Callable[[str, str, int], None] = field(default=lambda _figure, _name, _round: None)

    def load(self, contender: Contender) -> Load:
        """A throughput round's work for this subject."""
        options = self.options
        tasks = max(200, int(options.tasks * contender.share))
        concurrency = min(options.concurrency, contender.tasks_at_once)
        # Every user's first turn is warm-up: afterwards sessions, connections and code are warm.
        return Load(tasks, min(options.users, tasks), options.users, concurrency)


def interleaved(
    bench: Bench,
    figure: str,
    items: Sequence[_Item],
    measure: Callable[[_Item], Sample],
    *,
    name: Callable[[_Item], str] = str,
    rounds: Callable[[_Item], int] | None = None,
) -> list[Row]:
    """Measures every item once a round, each round beginning with another one; a row with the medians of each.

    An item whose worker or producer fails is left out of later rounds, and its row says why.
    """
    samples: dict[str, list[Sample]] = {name(item): [] for item in items}
    failed: dict[str, str] = {}
    wanted = {name(item): rounds(item) if rounds else bench.options.rounds for item in items}
    for round_ in range(max(wanted.values(), default=0)):
        shift = round_ % len(items)
        for item in [*items[shift:], *items[:shift]]:
            who = name(item)
            if who in failed or round_ >= wanted[who]:
                continue
            bench.step(figure, who, round_)
            try:
                samples[who].append(measure(item))
            except BenchError as error:
                failed[who] = str(error)
    return [_row(who, samples[who], failed.get(who)) for who in samples]


def _row(name: str, samples: Sequence[Sample], failed: str | None) -> Row:
    if failed is not None or not samples:
        return {"name": name, "failed": failed or "not measured"}
    medians = {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}
    return {"name": name, **medians, "samples": [dict(sample) for sample in samples]}
