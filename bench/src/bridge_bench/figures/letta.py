"""The real Letta, through the bridge and by hand: the bridge's share of a turn."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from letta_client import AsyncLetta

from bridge_bench.conversation import Conversation
from bridge_bench.figure import Column, Figure
from bridge_bench.runs import Bench, Row, Sample, interleaved
from bridge_bench.usage import cpu_seconds
from local_stack.letta import Letta
from local_stack.models import ScriptedModel
from local_stack.postgres import Postgres
from local_stack.processes import Process
from local_stack.services import Bridge
from local_stack.valkey import Valkey

_USER_COUNT: Final = 12
_TURNS_EACH: Final = 4
_TURNS_ALONE: Final = 20

FIGURE = Figure(
    "letta",
    "Real Letta, through the bridge and by hand",
    f"Letta with a scripted model that answers at once, so that a turn is Letta's own work. Turns a second with "
    f"{_USER_COUNT} users at once; latency with one user alone, {_TURNS_ALONE} turns one after the other. By hand is "
    "letta-client's typed call to the same agents. The share is the caller's CPU for a turn, in percent of the time "
    "the turn takes.",
    (
        Column("turns_per_second", "turns/s", "{:.2f}"),
        Column("p50", "alone, p50 ms", "{:.1f}"),
        Column("worst", "alone, worst ms", "{:.1f}"),
        Column("cpu_ms", "caller's CPU, ms a turn", "{:.2f}"),
        Column("share", "share of a turn", "{:.1f} %"),
    ),
    first="servers, caller",
)


@dataclass(frozen=True)
class _Setting:
    """A pattern of turns: of one user, one after the other, or of many users at once."""

    servers: int
    caller: str
    pid: Callable[[], int]
    talk: Callable[[int, int], Sequence[float]]
    """Users and turns of each; gives the seconds each turn took."""

    @property
    def name(self) -> str:
        return f"{self.servers}, {self.caller}"


def run(bench: Bench) -> list[Row]:
    """A row per number of servers and caller."""
    with ExitStack() as held:
        lettas = held.enter_context(_servers(bench.harness.data / "letta", 2))
        settings = []
        for count in (1, 2):
            urls = [letta.url for letta in lettas[:count]]
            bridge = held.enter_context(_bridge(bench, lettas[0], urls))
            conversation = Conversation(bench.harness.valkey.url, f"letta_requests_{count}")
            # Makes the agents.
            conversation.talk(_USER_COUNT, 1)
            agents = conversation.agents
            by_hand = _ByHand(urls, lettas[0].api_key, agents)
            settings.append(_Setting(count, "bridge", partial(_pid, bridge), conversation.talk))
            settings.append(_Setting(count, "by hand", lambda: 0, by_hand.talk))
        return interleaved(bench, FIGURE.name, settings, _measure, name=lambda setting: setting.name)


def _measure(setting: _Setting) -> Sample:
    alone = setting.talk(1, _TURNS_ALONE)
    cpu = _cpu(setting)
    began = time.monotonic()
    turns = len(setting.talk(_USER_COUNT, _TURNS_EACH))
    seconds = time.monotonic() - began
    cpu_ms = (_cpu(setting) - cpu) * 1000 / turns
    p50 = statistics.median(alone) * 1000
    return {
        "turns_per_second": turns / seconds,
        "p50": p50,
        "worst": max(alone) * 1000,
        "cpu_ms": cpu_ms,
        "share": cpu_ms / p50 * 100,
    }


def _pid(process: Process) -> int:
    return process.pid or 0


def _cpu(setting: _Setting) -> float:
    pid = setting.pid()
    return cpu_seconds(pid) if pid else time.process_time()


class _ByHand:
    """letta-client as documented, with a user's turns in order; the users are distributed over the servers."""

    def __init__(self, urls: Sequence[str], api_key: str, agents: Sequence[str]) -> None:
        self._urls = urls
        self._api_key = api_key
        self._agents = agents

    def talk(self, users: int, turns: int) -> list[float]:
        """See :class:`_Setting`."""
        return asyncio.run(self._talk(users, turns))

    async def _talk(self, users: int, turns: int) -> list[float]:
        clients = [AsyncLetta(base_url=url, api_key=self._api_key, max_retries=0) for url in self._urls]
        try:
            spoken = await asyncio.gather(
                *(self._user(clients[user % len(clients)], self._agents[user], turns) for user in range(users))
            )
        finally:
            for client in clients:
                await client.close()
        return [seconds for user in spoken for seconds in user]

    async def _user(self, client: AsyncLetta, agent_id: str, turns: int) -> list[float]:
        taken = []
        for turn in range(turns):
            began = time.monotonic()
            message: Any = {"role": "user", "content": f"Turn {turn}: what do you remember of the garden?"}
            await client.agents.messages.create(agent_id, messages=[message])
            taken.append(time.monotonic() - began)
        return taken


@contextmanager
def _servers(data: Path, count: int) -> Iterator[list[Letta]]:
    """Letta servers over one database."""
    with ExitStack() as held:

        def running(process: Process) -> None:
            held.callback(process.stop)
            process.start()

        postgres = Postgres(data / "postgres", durable=False)
        locks = Valkey(data / "locks", durable=False, name="valkey-locks")
        model = ScriptedModel(logs=data)
        for process in (postgres, locks, model):
            running(process)
            process.wait_ready()
        lettas = []
        for _ in range(count):
            letta = Letta(
                data / "server",
                database_url=f"{postgres.url('letta')}?sslmode=disable",
                locks=(locks.host, locks.port),
                model=model.access,
            )
            running(letta)
            letta.wait_ready()  # one after the other: the first one makes the schema
            lettas.append(letta)
        yield lettas


@contextmanager
def _bridge(bench: Bench, letta: Letta, urls: Sequence[str]) -> Iterator[Bridge]:
    number = len(urls)
    bridge = Bridge(
        bench.harness.data / f"bridge-letta-{number}",
        redis_url=bench.harness.valkey.url,
        letta=letta,
        name=f"bridge-letta-{number}",
        variables={
            "LETTA_API_URL": ",".join(urls),
            "LETTA_REQUESTS": f"letta_requests_{number}",
            "LETTA_RESPONSES": f"letta_requests_{number}:responses",
            "LETTA_FALLBACK": "false",
            "TENANT_SHARDS": "true",
        },
    )
    bridge.start()
    try:
        bridge.wait_ready()
        yield bridge
    finally:
        bridge.stop()
