"""The real Letta server with the scripted model, which verifies the behaviour of its double."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import httpx

from bridge_chaos.backups import restore_and_compare, saved_backup
from bridge_chaos.empty_place import empty_place
from bridge_chaos.fault import Fault, FaultContext, parts
from bridge_chaos.load import Load
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import restart

_TOPOLOGY: Final = Topology(
    real_letta=True, variables=(("LETTA_TIMEOUT_SECONDS", "10"), ("REPLY_DEADLINE_SECONDS", "40"))
)
_OWN_FILES: Final = replace(_TOPOLOGY, own_data=True, database=False)
"""Each bridge finds the agents that the other one made by their tags alone."""
_LOAD: Final = Load(users=5, messages=4, seconds=6.0)
_THINKING: Final = Load(users=5, messages=3, seconds=6.0, prefix="[[latency:1500]] ")
_TOOLS: Final = Load(users=5, messages=3, seconds=6.0, prefix="[[latency:800]] 我喜欢乌龙茶。")
_SERVER: Final = parts("letta", "letta-link", "real-letta")
_MODEL: Final = parts("real-letta", "letta-model")
_CUTS: Final = ("cut-working", "cut-answer", "cut")
_AWAY_SECONDS: Final = 5.0
_GATE: Final = parts("real-letta", "letta-gate")


def faults() -> list[Fault]:
    """All of them."""
    rows: list[tuple[str, str, Callable[[FaultContext], None], Load, frozenset[str]]] = [
        ("kill", "gets SIGKILL before the first step of its turns, and is started again", _kill, _THINKING, _SERVER),
        ("kill-after-tool", "gets SIGKILL among turns with a tool step, and is started again", _kill, _TOOLS, _SERVER),
        ("cut", "loses its connections during turns", _cut, _THINKING, parts("letta-link", "real-letta")),
        (
            "429",
            "is refused by its model, 429, nine times",
            _model(action="fail", status=429, next=9),
            _LOAD,
            _MODEL,
        ),
        (
            "500",
            "is refused by its model, 500, nine times",
            _model(action="fail", status=500, next=9),
            _LOAD,
            _MODEL,
        ),
        (
            "401",
            "is refused by its model, 401, three times",
            _model(action="fail", status=401, next=3),
            _LOAD,
            _MODEL,
        ),
        ("empty", "gets four empty answers from its model", _model(action="empty", next=4), _LOAD, _MODEL),
        ("hang", "waits 13 s for its model, three times", _model(action="hang", seconds=13.0, next=3), _LOAD, _MODEL),
        (
            "database-away",
            f"loses its database during turns, for {_AWAY_SECONDS:g} s, and cannot store the end of runs",
            _database_away,
            _THINKING,
            parts("postgres", "real-letta"),
        ),
        ("bridge-kill", "continues its turns while a bridge gets SIGKILL", _bridge_kill, _THINKING, parts("bridge")),
    ]
    found = [
        Fault(
            f"real-letta/{name}",
            f"the real Letta {what}",
            act,
            topology=_TOPOLOGY,
            load=load,
            patience=240.0,
            occupies=occupied,
        )
        for name, what, act, load, occupied in rows
    ]
    return [*found, _killed_behind_proxy(), *_lost_connections(), *_backups()]


def _killed_behind_proxy() -> Fault:
    """Bridges see no refused connection, so that only the age of abandoned runs identifies them."""
    return Fault(
        "real-letta/kill-behind-proxy",
        "the real Letta gets SIGKILL during turns, behind a proxy that still accepts connections",
        _kill_behind_proxy,
        topology=replace(
            _TOPOLOGY, variables=(*_TOPOLOGY.variables, ("LETTA_BRIDGE_LETTA_RUN_LIFETIME_SECONDS", "45"))
        ),
        load=_THINKING,
        patience=240.0,
        occupies=_SERVER,
    )


def _lost_connections() -> list[Fault]:
    """The connection is lost at the first calls of a kind."""
    rows = [
        ("create", "cut-working", "makes 3 agents half a second after its connections were lost"),
        ("create", "cut", "makes 3 agents, and its connections are lost before the answer"),
        ("send", "cut-working", "begins 3 turns half a second after their connections were lost"),
    ]
    return [
        Fault(
            f"real-letta/{operation}-{'done' if mode == 'cut' else 'working'}",
            f"the real Letta {what}",
            lambda context: context.strike(),
            prepare=_gated(operation, mode),
            topology=_OWN_FILES,
            load=_LOAD,
            at_once=True,
            patience=240.0,
            occupies=_GATE,
        )
        for operation, mode, what in rows
    ]


def _gated(operation: str, mode: str) -> Callable[[FaultContext], None]:
    def prepare(context: FaultContext) -> None:
        context.environment.letta.dialled.fail(mode, operation=operation, times=3, details={"seconds": 0.5})

    return prepare


def _backups() -> list[Fault]:
    """'backup' while users talk, and 'restore' into an empty place."""
    rows = [
        ("backup", "is backed up while users send messages, and restored into an empty installation", ()),
        ("restore-cut", "is restored, and loses a connection at each kind of call", ("list_agents", "get", "import")),
    ]
    return [
        Fault(
            f"real-letta/{name}",
            f"the real Letta {what}",
            _backed_up(cut),
            topology=_TOPOLOGY,
            load=_LOAD,
            patience=240.0,
            needs=_GATE | parts("operator", "postgres", "bridges", "redis"),
        )
        for name, what, cut in rows
    ]


def _backed_up(cut: Sequence[str]) -> Callable[[FaultContext], None]:
    def act(context: FaultContext) -> None:
        context.strike()
        backup = saved_backup(context)
        with empty_place(context.environment) as place:
            for operation in cut:
                place.gate.fail(
                    context.random.choice(["cut-working", "cut-answer", "cut"]), operation=operation, times=1
                )
            restore_and_compare(context, backup, place)

    return act


def _kill(context: FaultContext) -> None:
    letta = context.environment.letta
    if letta.real is not None:
        context.strike()
        letta.kill_and_restart(letta.real)


def _kill_behind_proxy(context: FaultContext) -> None:
    if context.environment.letta.real is not None:
        context.strike()
        restart(context.environment.letta.real)


def _cut(context: FaultContext) -> None:
    context.strike()
    for _ in range(3):
        context.environment.letta.link.cut()
        context.let_pass(context.random.uniform(0.3, 1.0))


def _database_away(context: FaultContext) -> None:
    context.strike()
    context.environment.postgres.kill()
    context.let_pass(_AWAY_SECONDS)
    restart(context.environment.postgres)


def _bridge_kill(context: FaultContext) -> None:
    context.strike()
    restart(context.victim)


def _model(**dial: Any) -> Callable[[FaultContext], None]:
    def act(context: FaultContext) -> None:
        if context.environment.model is None:
            return
        control = f"{context.environment.model.base_url}/control/faults"
        context.strike()
        httpx.put(control, json=dial).raise_for_status()
        context.conversation.wait_all(60.0)
        httpx.delete(control)

    return act
