"""Letta as letta-server sets it up, against Letta with its own defaults."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from bridge_bench.callers import Callers
from bridge_bench.contenders import Kind
from bridge_bench.figure import Column, Figure
from bridge_bench.runs import Bench, Row, Sample, interleaved
from bridge_bench.stock_letta import StockLetta, make_schema
from bridge_bench.usage import cpu_seconds
from local_stack.letta import Letta
from local_stack.models import ScriptedModel
from local_stack.postgres import Postgres
from local_stack.processes import Process

_AGENTS: Final = 16
_TURNS_EACH: Final = 3
_AGENTS_ALONE: Final = 8

FIGURE = Figure(
    "setup",
    "Letta as letta-server runs it",
    "The same Letta 0.16.8, on the same PostgreSQL with the same schema, with the same scripted model that answers at "
    "once: as `letta-server run` sets it up, and as `letta server` starts with its defaults. Turns a second with "
    f"{_AGENTS} agents at once, one turn at a time each, {_AGENTS * _TURNS_EACH} in all; latency with one agent alone. "
    "Each round has new agents, whose first turns do not count. The start is the first one: of letta-server on an "
    "empty PostgreSQL, of the defaults with the schema made before, until the server answers. CPU is the server's, and "
    "beside it PostgreSQL's. Both "
    "run on uvloop, which the defaults take, too, where it is installed; PostgreSQL does not wait for its disk, and "
    "asks for a password, as is its default (SCRAM). That alone costs Letta about 20 ms of CPU for each connection, of "
    "which it opens some twenty a turn without a pool; where the database trusts everybody, the ratio is smaller.\n\n"
    "Most of letta-server's start is the import of Letta with the libraries of all providers and file formats "
    "(google-genai 0.8 s, openai, mistralai and markitdown 0.6 s each), which Letta's modules name at their top: half "
    "of the time cannot be had without editing them.",
    (
        Column("turns_per_second", "turns/s", "{:.2f}"),
        Column("relative", "of the defaults'", "{:.2f} ×"),
        Column("cpu_ms", "Letta's CPU, ms a turn", "{:.0f}"),
        Column("database_cpu_ms", "PostgreSQL's", "{:.0f}"),
        Column("p50", "p50 ms", "{:.0f}"),
        Column("alone", "alone, p50 ms", "{:.0f}"),
        Column("start", "start, s", "{:.1f}"),
    ),
)


@dataclass(frozen=True)
class _Server:
    name: str
    kind: Kind
    process: Process
    callers: Callers
    started: float
    """Seconds its start took."""


def run(bench: Bench) -> list[Row]:
    """A row for letta-server, and one for Letta's defaults."""
    with _harness(bench) as (servers, postgres):
        rows = interleaved(
            bench, FIGURE.name, servers, lambda server: _measure(server, postgres), name=lambda server: server.name
        )
    return described(rows, {server.name: server.kind for server in servers})


def described(rows: list[Row], kinds: dict[str, Kind]) -> list[Row]:
    """The rows, with their kinds and each one's ratio to the defaults."""
    base = next((row.get("turns_per_second") for row in rows if kinds[row["name"]] == "peer"), None)
    for row in rows:
        row["kind"] = kinds[row["name"]]
        if base and "turns_per_second" in row:
            row["relative"] = row["turns_per_second"] / base
    return rows


def _measure(server: _Server, postgres: Process) -> Sample:
    agents = server.callers.new_agents(_AGENTS)
    server.callers.talk(agents, 1)
    alone = server.callers.talk(agents[:1], _AGENTS_ALONE)
    before = _used(server.process), _used(postgres)
    began = time.monotonic()
    taken = server.callers.talk(agents, _TURNS_EACH)
    seconds = time.monotonic() - began
    after = _used(server.process), _used(postgres)
    return {
        "turns_per_second": len(taken) / seconds,
        "cpu_ms": (after[0] - before[0]) * 1000 / len(taken),
        "database_cpu_ms": (after[1] - before[1]) * 1000 / len(taken),
        "p50": statistics.median(taken) * 1000,
        "alone": statistics.median(alone) * 1000,
        "start": server.started,
    }


def _used(process: Process) -> float:
    return cpu_seconds(process.pid or 0)


@contextmanager
def _harness(bench: Bench) -> Iterator[tuple[list[_Server], Postgres]]:
    """Both servers, each with its own database on one PostgreSQL."""
    data = bench.harness.data / "setup"
    with ExitStack() as held:

        def running(process: Process) -> float:
            held.callback(process.stop)
            began = time.monotonic()
            process.start()
            process.wait_ready()
            return time.monotonic() - began

        postgres = Postgres(data / "postgres", durable=False)
        model = ScriptedModel(logs=data)
        running(postgres)
        running(model)
        ours = Letta(
            data / "ours",
            database_url=postgres.url("ours"),
            locks=(bench.harness.valkey.host, bench.harness.valkey.port),
            model=model.access,
        )
        ours_started = running(ours)
        make_schema(data / "schema", postgres.url("stock"))
        stock = StockLetta(data / "stock", database_url=postgres.url("stock"), model=model.access)
        stock_started = running(stock)
        handle = model.access.handle
        yield (
            [
                _Server("letta-server run", "bridge", ours, Callers(ours.url, handle, ours.api_key), ours_started),
                _Server("letta server, its defaults", "peer", stock, Callers(stock.url, handle), stock_started),
            ],
            postgres,
        )
