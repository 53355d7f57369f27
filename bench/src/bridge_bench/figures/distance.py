"""Time to the answer from a model that is far away, with and without the connections that letta-server keeps."""

from __future__ import annotations

from typing import Final

from bridge_bench.callers import Callers
from bridge_bench.distant import distant
from bridge_bench.figure import Column, Figure
from bridge_bench.figures.hooks import without
from bridge_bench.letta_turns import NamedLetta, parts
from bridge_bench.runs import Bench, Row, interleaved

_TURNS: Final = 10
_ROUND_TRIP_MS: Final = 100

FIGURE = Figure(
    "distance",
    "A model that is far away",
    f"letta-server as it is, and without the hook that keeps connections to models. The fastest of {_TURNS} turns of "
    "one agent, with the model beside Letta and behind a proxy that makes each round trip take "
    f"{_ROUND_TRIP_MS} ms, the one that opens a connection included. There is no TLS, which takes one or two round "
    "trips more for each connection.",
    (
        Column("near", "beside Letta, ms", "{:.0f}"),
        Column("far", "far away, ms", "{:.0f}"),
        Column("more", "more, ms", "{:.0f}"),
    ),
    first="letta-server",
)


def run(bench: Bench) -> list[Row]:
    """A row with the hook, and one without."""
    data = bench.harness.data / "distance"
    with parts(data) as found, distant(found.model.url, _ROUND_TRIP_MS / 1000) as far:
        servers = [
            NamedLetta("as it is", without(found, data / "letta-0", ())),
            NamedLetta("a connection for each call", without(found, data / "letta-1", ("turns.model_connections",))),
        ]

        def measure(server: NamedLetta) -> dict[str, float]:
            letta = server.letta
            callers = Callers(letta.url, letta.model, letta.api_key)
            near, away = (_alone(callers, url) for url in (None, far))
            return {"near": near, "far": away, "more": away - near}

        return interleaved(bench, FIGURE.name, servers, measure, name=lambda server: server.name)


def _alone(callers: Callers, model_url: str | None) -> float:
    agents = callers.new_agents(1, model_url=model_url)
    callers.talk(agents, 1)
    # Round trips are what is compared, and other load on the machine only adds to a turn.
    return min(callers.talk(agents, _TURNS)) * 1000
