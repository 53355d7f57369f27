"""What each of letta-server's hooks saves: Letta with all of them, without one, and without any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bridge_bench.figure import Column, Figure
from bridge_bench.letta_turns import AGENTS, NamedLetta, Parts, measured, parts
from bridge_bench.runs import Bench, Row, interleaved
from local_stack.letta import Letta

_HISTORY: Final = 20
_TURNS_EACH: Final = 6
_HOOKS: Final = (
    "turns.lean_reads",
    "turns.model_connections",
    "turns.step_metrics",
    "turns.tool_schemas",
    "hooks.statement_cache",
    "hooks.idle_ping",
)
_VARIABLES: Final[Mapping[str, Mapping[str, str]]] = {"hooks.idle_ping": {"LETTA_POOL_PRE_PING": "true"}}
"""What else a hook changes, taken back."""
_LEAVE_OUT: Final = """
import importlib, os
for name in os.environ["BENCH_WITHOUT"].split():
    importlib.import_module(f"letta_server.{name}").install = lambda *_, **__: None
"""
"""Run by Python itself before letta-server."""

FIGURE = Figure(
    "hooks",
    "What each hook of letta-server saves",
    f"letta-server as it is, without one of its hooks, and without any; {AGENTS} agents with {_HISTORY} turns in their "
    f"context, {AGENTS * _TURNS_EACH} turns. services/letta-server/README.md says what each hook does; "
    "`model_connections` includes `request_bodies`. Differences of less than 7 ms of Letta's CPU are within the noise "
    "of this measurement. Without `step_metrics`, durations of steps are lost, which matters more than what it saves.",
    (
        Column("cpu_ms", "Letta's CPU, ms a turn", "{:.0f}"),
        Column("saved", "saved by it", "{:.0f}"),
        Column("database_cpu_ms", "PostgreSQL's", "{:.1f}"),
        Column("database_saved", "saved by it", "{:.1f}"),
        Column("turns_per_second", "turns/s", "{:.1f}"),
        Column("connections", "connections of 100 turns", "{:.0f}"),
    ),
    first="letta-server",
)


def run(bench: Bench) -> list[Row]:
    """A row with all hooks, one without each, and one without any."""
    left_out: dict[str, tuple[str, ...]] = {"with all hooks": ()}
    left_out |= {f"without {hook.rpartition('.')[2]}": (hook,) for hook in _HOOKS}
    left_out |= {"without any": _HOOKS}
    data = bench.harness.data / "hooks"
    with parts(data) as found:
        servers = [
            NamedLetta(name, without(found, data / f"letta-{number}", hooks))
            for number, (name, hooks) in enumerate(left_out.items())
        ]

        def measure(server: NamedLetta) -> dict[str, float]:
            return dict(measured(found, server.letta, _TURNS_EACH, history=_HISTORY))

        return compared(interleaved(bench, FIGURE.name, servers, measure, name=lambda server: server.name))


def compared(rows: list[Row]) -> list[Row]:
    """The rows, with what each costs more than the first."""
    first = rows[0]
    for row in rows[1:]:
        for value, saved in (("cpu_ms", "saved"), ("database_cpu_ms", "database_saved")):
            if value in row and value in first:
                row[saved] = row[value] - first[value]
    return rows


def without(found: Parts, data: Path, hooks: tuple[str, ...]) -> Letta:
    """A letta-server that leaves out these hooks, each a module of ``letta_server``."""
    data.mkdir(parents=True)
    (data / "sitecustomize.py").write_text(_LEAVE_OUT, encoding="utf-8")
    more = {name: value for hook in hooks for name, value in _VARIABLES.get(hook, {}).items()}
    return found.letta(data, PYTHONPATH=str(data), BENCH_WITHOUT=" ".join(hooks), **more)
