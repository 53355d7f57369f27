"""The real Letta server with the scripted model: what its double only claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import httpx

from bridge_chaos.fault import Fault, FaultContext, parts
from bridge_chaos.load import Load
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import restart

_TOPOLOGY: Final = Topology(real_letta=True, variables=(("LETTA_TIMEOUT", "10"), ("REPLY_DEADLINE", "40")))
_LOAD: Final = Load(users=5, messages=4, seconds=6.0)
_THINKING: Final = Load(users=5, messages=3, seconds=6.0, prefix="[[latency:1500]] ")
_TOOLS: Final = Load(users=5, messages=3, seconds=6.0, prefix="[[latency:800]] 我喜欢乌龙茶。")
_SERVER: Final = parts("letta", "real-letta")
_MODEL: Final = parts("real-letta", "letta-model")


def faults() -> list[Fault]:
    """All of them."""
    rows: list[tuple[str, str, Callable[[FaultContext], None], Load, frozenset[str]]] = [
        ("kill", "gets SIGKILL before the first step of its turns, and is started again", _kill, _THINKING, _SERVER),
        ("kill-after-tool", "gets SIGKILL among turns with a tool step, and is started again", _kill, _TOOLS, _SERVER),
        ("cut", "loses its connections in the middle of turns", _cut, _THINKING, parts("letta-link", "real-letta")),
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
        ("bridge-kill", "works on while a bridge gets SIGKILL", _bridge_kill, _THINKING, parts("bridge")),
    ]
    return [
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


def _kill(context: FaultContext) -> None:
    if context.environment.letta.real is not None:
        context.strike()
        restart(context.environment.letta.real)


def _cut(context: FaultContext) -> None:
    context.strike()
    for _ in range(3):
        context.environment.letta.link.cut()
        context.let_pass(context.random.uniform(0.3, 1.0))


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
