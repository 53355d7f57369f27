"""The soak test: a steady load with occasional faults, then checks of promises and of growth."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import psutil
import psycopg

from bridge_chaos.catalogue import catalogue
from bridge_chaos.choices import Chooser
from bridge_chaos.conversation import Conversation
from bridge_chaos.environment import QUEUE, Environment
from bridge_chaos.fault import FaultContext
from bridge_chaos.load import Load
from bridge_chaos.promises import Verdict, judge
from bridge_chaos.runner import close_talk
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import wait_until
from bridge_chaos.workspace import Workspace

_REPLY_TTL_SECONDS: Final = 60
"""Seconds replies are kept by task id here, so that a run outlasts them."""
_TOPOLOGY: Final = Topology(
    # Other work may keep the disk busy, and Valkey would put off writing what it has acknowledged.
    redis_options=(("appendfsync", "always"),),
    variables=(
        ("REPLY_TTL_SECONDS", str(_REPLY_TTL_SECONDS)),
        ("MAX_CONCURRENT_REQUESTS", "32"),
        # Letta may be broken for minutes here, and what is only counted to the agent would look forgotten.
        ("LETTA_BRIDGE_FALLBACK_CATCH_UP_MAX_TURNS", "200"),
        ("LETTA_BRIDGE_FALLBACK_CATCH_UP_MAX_CHARACTERS", "100000"),
    ),
)
_USER_COUNT: Final = 40
_PAUSE_RANGE_SECONDS: Final = (5.0, 20.0)
_SAMPLE_EVERY_SECONDS: Final = 2.0
_MAX_MEMORY_GROWTH: Final = 0.1
_SLACK_MIB: Final = 12.0
_SLACK_DESCRIPTORS: Final = 12
_MIN_SAMPLES: Final = 3
_ANSWER_TIMEOUT_SECONDS: Final = 180.0
_LASTING_KEYS: Final = ("replies", "counters", "bridges")
"""Keys that stay: a capped stream, sums, and who lives."""
SPRINKLED: Final = (
    "bridge/kill", "bridge/term", "bridge/zombie",
    "redis/kill", "redis/restart", "redis/black-hole", "redis/slow", "redis/answers-lost", "redis/client-kill",
    "redis/script-flush", "redis/full",
    "postgres/kill", "postgres/restart", "postgres/black-hole", "postgres/connections", "postgres/read-only",
    "letta/kill", "letta/kill-after-tool", "letta/away", "letta/black-hole", "letta/cut", "letta/409", "letta/429",
    "letta/500", "letta/hang", "letta/drip", "letta/cut-answer", "letta/twice", "memory/killed",
)  # fmt: skip
"""Faults that need no stack of their own, and spare the second bridge: it is the one that is measured."""


@dataclass
class Soak:
    """How it ended."""

    seed: int
    minutes: float
    faults: Counter[str] = field(default_factory=Counter)
    broke_off: list[str] = field(default_factory=list)
    """Faults that could not do what they wanted."""
    resident: list[float] = field(default_factory=list)
    """MiB of the second bridge, every two seconds."""
    descriptors: list[int] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)
    """Kind of Redis key → how many are left at the end."""
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Table → rows, and how many there should be."""
    verdict: Verdict = field(default_factory=Verdict)

    def problems(self) -> list[str]:
        """Broken promises and resources that have grown; empty if there are none."""
        found = [f"{name}: {count}" for name, count in self.verdict.counts().items()]
        early, late = thirds(self.resident)
        if late > early * (1 + _MAX_MEMORY_GROWTH) + _SLACK_MIB:
            found.append(f"the bridge grew from {early:.0f} to {late:.0f} MiB")
        early, late = thirds(self.descriptors)
        if late > early + _SLACK_DESCRIPTORS:
            found.append(f"the bridge's descriptors grew from {early:.0f} to {late:.0f}")
        found += [f"{count} keys {kind} are left" for kind, count in self.keys.items() if kind not in _LASTING_KEYS]
        found += [f"{table} has {rows} rows, not {due}" for table, (rows, due) in self.rows.items() if rows != due]
        return found


def thirds(samples: Sequence[float]) -> tuple[float, float]:
    """The medians of the second and the last third; the first third is warm-up."""
    if len(samples) < _MIN_SAMPLES:
        return 0.0, 0.0
    third = len(samples) // 3
    return statistics.median(samples[third : 2 * third]), statistics.median(samples[2 * third :])


def soak(workspace: Workspace, minutes: float, seed: int, rate: float, tell: Callable[[str], None]) -> Soak:
    """Run it.

    Args:
        workspace: where.
        minutes: how long users talk.
        seed: of faults and pauses.
        rate: messages a second.
        tell: hears of each fault.
    """
    result = Soak(seed, minutes)
    messages = max(1, round(minutes * 60 * rate / _USER_COUNT))
    load = Load(users=_USER_COUNT, messages=messages, seconds=minutes * 60, with_persona=0, choosing=0, streamed=False)
    with Environment(workspace, _TOPOLOGY) as environment:
        environment.renew()
        chooser = Chooser(environment.doors)
        conversation = Conversation(environment.client, load, f"soak-{seed}", chooser)
        context = FaultContext(environment, conversation, Random(seed), environment.bridges[0])  # noqa: S311 - repeatable
        over = threading.Event()
        watch = threading.Thread(target=_watch, args=(environment, result, over), daemon=True)
        try:
            watch.start()
            conversation.begin()
            _sprinkle(context, result, minutes * 60, tell)
            conversation.wait_pushed(minutes * 60 + _ANSWER_TIMEOUT_SECONDS)
            conversation.wait_all(_ANSWER_TIMEOUT_SECONDS)
            close_talk(environment, conversation)
            result.verdict = judge(environment, conversation)
            _count_rows(environment, conversation, result)
            _count_keys(environment, result)
        finally:
            over.set()
            watch.join()
            conversation.close()
    return result


def _sprinkle(context: FaultContext, result: Soak, seconds: float, tell: Callable[[str], None]) -> None:
    known = catalogue()
    began = time.monotonic()
    while (left := seconds - (time.monotonic() - began)) > _PAUSE_RANGE_SECONDS[0]:
        context.let_pass(min(left, context.random.uniform(*_PAUSE_RANGE_SECONDS)))
        fault = known[context.random.choice(SPRINKLED)]
        answered = len(context.conversation.observer.answered_at)
        tell(f"{time.monotonic() - began:6.0f} s  {answered:6} answered  {fault.name}")
        try:
            fault.act(context)
        except Exception as error:  # noqa: BLE001 - the run goes on, and says so at its end
            result.broke_off.append(f"{fault.name}: {error!r}")
        result.faults[fault.name] += 1


def _watch(environment: Environment, result: Soak, over: threading.Event) -> None:
    process = psutil.Process(environment.bridges[1].pid)
    while not over.wait(_SAMPLE_EVERY_SECONDS):
        try:
            result.resident.append(process.memory_info().rss / 2**20)
            result.descriptors.append(process.num_fds())
        except psutil.Error:
            return


def _count_rows(environment: Environment, conversation: Conversation, result: Soak) -> None:
    answers = sum(result.verdict.sources[name] for name in ("letta", "memory-python"))
    due = {"agent_messages": 2 * answers, "agent_conversations": len(conversation.users), "agent_sessions": _USER_COUNT}
    with psycopg.connect(environment.postgres.url(environment.database), autocommit=True) as connection:
        for table, count in due.items():
            row = connection.execute(f"SELECT count(*) FROM letta_bridge.{table}").fetchone()  # noqa: S608 - our own names
            result.rows[table] = (row[0] if row else 0, count)


def _count_keys(environment: Environment, result: Soak) -> None:
    """Count the keys that remain after everything with an expiry has expired."""

    def quiet() -> bool:
        result.keys = _kinds(environment)
        return not set(result.keys) - set(_LASTING_KEYS)

    wait_until(quiet, 2.0 * _REPLY_TTL_SECONDS, pause=1.0)


def _kinds(environment: Environment) -> dict[str, int]:
    with environment.client() as client:
        found: Any = client.scan_iter(match=f"{{{QUEUE}}}:*", count=1000)
        kinds = Counter(key.decode().removeprefix(f"{{{QUEUE}}}:").partition(":")[0] for key in found)
    kinds.pop("journal_writer", None)  # renewed all the time
    if not _unwritten(environment):
        kinds.pop("journal", None)  # an empty stream stays a key
    return dict(kinds)


def _unwritten(environment: Environment) -> int:
    with environment.client() as client:
        waiting: Any = client.xlen(f"{{{QUEUE}}}:journal")
        return int(waiting)


def summary(result: Soak) -> list[str]:
    """The end of a run, line by line."""
    memory, descriptors = thirds(result.resident), thirds(result.descriptors)
    sources = ", ".join(f"{name} {count}" for name, count in sorted(result.verdict.sources.items()) if count)
    return [
        f"{result.minutes:g} minutes, seed {result.seed}: {result.verdict.tasks} tasks ({sources})",
        f"{sum(result.faults.values())} faults: "
        + ", ".join(f"{name} {count}" for name, count in sorted(result.faults.items())),
        f"the second bridge's memory: {memory[0]:.1f} MiB in the second third, {memory[1]:.1f} MiB in the last",
        f"its open descriptors: {descriptors[0]:.0f} and {descriptors[1]:.0f}",
        "Redis keys at the end: " + (", ".join(f"{kind} {count}" for kind, count in sorted(result.keys.items()))),
        "database rows (found / said): "
        + ", ".join(f"{table} {rows} / {due}" for table, (rows, due) in result.rows.items()),
        *(f"could not be done: {what}" for what in result.broke_off),
        "broken or grown: " + ("; ".join(result.problems()) or "nothing"),
    ]
