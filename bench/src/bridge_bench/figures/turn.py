"""The CPU of a turn of Letta under letta-server, by the history in its context, plain and streamed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bridge_bench.figure import Column, Figure
from bridge_bench.letta_turns import AGENTS, measured, parts
from bridge_bench.runs import Bench, Row, interleaved

_HISTORIES: Final = (5, 50, 500)
_WITH_WORKERS: Final = (5, 50)
"""Histories that are measured with two workers, too."""
_TURNS_EACH: Final = 5

FIGURE = Figure(
    "turn",
    "A turn of Letta, by its history",
    f"letta-server with the scripted model, {AGENTS} agents at once, {AGENTS * _TURNS_EACH} turns. The agents begin "
    "with so many turns in their context; streamed turns come token by token. Letta summarises a context that is too "
    "long for the model: with 500 turns it does so in the first one, which does not count, and the column of messages "
    "says how many are left. New connections to the model are those of 100 turns. Rows with two workers are of "
    "`letta-server run --workers 2`, with the CPU of both and of their parent; here the two share two cores with "
    "PostgreSQL, the model and the callers, so compare the CPU, and the turns/s with those of one worker in the same "
    "run.\n\nWhat is left of Letta's CPU, as a "
    "sampling profiler saw it with 20 turns of history: 43 % SQLAlchemy, for some forty statements in 18 transactions; "
    "24 % the event loop; 7 % the request to the model; 6 % pydantic; 4 % FastAPI. A longer history costs more because "
    "Letta reads and converts all messages of the context in each turn.",
    (
        Column("cpu_ms", "Letta's CPU, ms a turn", "{:.0f}"),
        Column("database_cpu_ms", "PostgreSQL's", "{:.1f}"),
        Column("turns_per_second", "turns/s", "{:.1f}"),
        Column("messages", "messages sent", "{:.0f}"),
        Column("connections", "connections of 100 turns", "{:.0f}"),
    ),
    first="history, answers",
)


@dataclass(frozen=True)
class _Setting:
    history: int
    streamed: bool = False
    workers: int = 1

    @property
    def name(self) -> str:
        workers = ", two workers" if self.workers > 1 else ""
        return f"{self.history} turns, {'streamed' if self.streamed else 'plain'}{workers}"


def run(bench: Bench) -> list[Row]:
    """A row for each history, plain and streamed, and with two workers for some."""
    settings = [_Setting(history, streamed) for history in _HISTORIES for streamed in (False, True)]
    settings += [_Setting(history, workers=2) for history in _WITH_WORKERS]
    data = bench.harness.data / "turn"
    with parts(data) as found:
        servers = {
            workers: found.letta(data / f"letta-{workers}", LETTA_SERVER_WORKERS=str(workers)) for workers in (1, 2)
        }

        def measure(setting: _Setting) -> dict[str, float]:
            letta = servers[setting.workers]
            return dict(measured(found, letta, _TURNS_EACH, history=setting.history, streamed=setting.streamed))

        return interleaved(bench, FIGURE.name, settings, measure, name=lambda setting: setting.name)
