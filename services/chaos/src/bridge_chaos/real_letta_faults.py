"""The real Letta server with the scripted model: what its double only claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import httpx

from bridge_chaos.fault import Fault, Scene
from bridge_chaos.load import Load
from bridge_chaos.rig import Shape

_SHAPE: Final = Shape(real_letta=True, variables=(("LETTA_TIMEOUT", "10"), ("REPLY_DEADLINE", "40")))
_LOAD: Final = Load(users=5, messages=4, seconds=6.0)
_THINKING: Final = Load(users=5, messages=3, seconds=6.0, prefix="[[latency:1500]] ")
_TOOLS: Final = Load(users=5, messages=3, seconds=6.0, prefix="[[latency:800]] 我喜欢乌龙茶。")


def faults() -> list[Fault]:
    """All of them."""
    rows: list[tuple[str, str, Callable[[Scene], None], Load]] = [
        ("kill", "gets SIGKILL before the first step of its turns, and is started again", _kill, _THINKING),
        ("kill-after-tool", "gets SIGKILL among turns with a tool step, and is started again", _kill, _TOOLS),
        ("cut", "loses its connections in the middle of turns", _cut, _THINKING),
        ("429", "is refused by its model, 429, at nine calls", _model(action="fail", status=429, next=9), _LOAD),
        ("500", "is refused by its model, 500, at nine calls", _model(action="fail", status=500, next=9), _LOAD),
        ("401", "is refused by its model, 401, at three calls", _model(action="fail", status=401, next=3), _LOAD),
        ("empty", "gets four empty answers from its model", _model(action="empty", next=4), _LOAD),
        ("hang", "waits 13 s for its model, three times", _model(action="hang", seconds=13.0, next=3), _LOAD),
        ("bridge-kill", "works on while a bridge gets SIGKILL", _bridge_kill, _THINKING),
    ]
    return [
        Fault(f"real-letta/{name}", f"the real Letta {what}", act, shape=_SHAPE, load=load, patience=180.0)
        for name, what, act, load in rows
    ]


def _kill(scene: Scene) -> None:
    if scene.rig.real is not None:
        scene.strike()
        scene.rig.restart(scene.rig.real)


def _cut(scene: Scene) -> None:
    scene.strike()
    for _ in range(3):
        scene.rig.to_letta[0].cut()
        scene.let_pass(scene.random.uniform(0.3, 1.0))


def _bridge_kill(scene: Scene) -> None:
    scene.strike()
    scene.rig.restart(scene.rig.first)


def _model(**dial: Any) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        if scene.rig.model is None:
            return
        control = f"{scene.rig.model.base_url}/control/faults"
        scene.strike()
        httpx.put(control, json=dial).raise_for_status()
        scene.conversation.wait_all(60.0)
        httpx.delete(control)

    return act
