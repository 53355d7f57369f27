"""Letta, as its double, is killed, refuses, stalls, cuts off, repeats itself, or loses an agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httpx

from bridge_chaos.fault import Fault, Scene
from bridge_chaos.load import Load
from bridge_chaos.rig import Shape, wait_until

_AWAY: Final = 6.0
_STRUCK: Final = 30.0
_WHY_FORGOTTEN: Final = "What only the deleted agent knew is deleted with it; what is said from then on is kept."


def faults() -> list[Fault]:
    """All of them."""
    refusals = [
        Fault(
            f"letta/{code}", f"Letta answers {code} to 12 turns and stores nothing", _dialled("status", 12, code=code)
        )
        for code in (401, 409, 429, 500)
    ]
    return [
        Fault("letta/kill", "Letta gets SIGKILL before the first step of its turns, back after 2 s", _kill),
        Fault("letta/kill-after-tool", "Letta gets SIGKILL after a tool step was stored, back after 2 s", _kill_tool),
        Fault("letta/away", f"Letta refuses connections for {_AWAY:g} s", _away),
        Fault("letta/black-hole", f"no byte passes between Letta and the bridges for {_AWAY:g} s", _black_hole),
        Fault("letta/cut", "all connections to Letta are reset in the middle of turns, three times", _cut),
        *refusals,
        _late(429),
        _late(500),
        Fault("letta/empty", "Letta stores 6 turns and says nothing", _dialled("empty", 6)),
        Fault("letta/hang", "4 turns take 3 s longer than the bridge waits", _dialled("hang", 4, seconds=7.0)),
        Fault("letta/drip", "4 answers come byte by byte over 3 s", _dialled("drip", 4, seconds=3.0)),
        Fault("letta/drip-long", "4 answers come byte by byte, too slowly", _dialled("drip", 4, seconds=8.0)),
        Fault("letta/cut-answer", "8 turns are stored, and their connections end unanswered", _dialled("cut", 8)),
        Fault("letta/twice", "20 answers are sent twice on the same connection", _dialled("twice", 20)),
        Fault(
            "letta/agent-deleted",
            "half of the agents are deleted behind the bridges' back",
            _delete_agents,
            window=_WHY_FORGOTTEN,
            unkept=frozenset({"forgotten"}),
        ),
        Fault(
            "letta/one-of-two",
            f"one of two Letta servers over one database gets SIGKILL, back after {_AWAY:g} s",
            _one_of_two,
            shape=Shape(letta_servers=2),
        ),
        Fault(
            "memory/killed",
            "memory-python gets SIGKILL while it answers for Letta, back after 2 s; Letta comes back later",
            _memory_killed,
        ),
        Fault(
            "memory/gone",
            "Letta and memory-python are both away, for longer than a fallback may take",
            _memory_gone,
            load=Load(users=12, messages=3, seconds=2.0),
        ),
    ]


def _kill(scene: Scene) -> None:
    scene.strike()
    scene.rig.letta[0].kill()
    scene.let_pass(2.0)
    scene.rig.restart(scene.rig.letta[0])


def _kill_tool(scene: Scene) -> None:
    double = scene.rig.letta[0]
    double.fail("tool", times=6, seconds=1.0)
    wait_until(lambda: double.seen()["struck"] >= 1, _STRUCK)
    scene.let_pass(0.6)
    _kill(scene)


def _away(scene: Scene) -> None:
    scene.strike()
    scene.rig.to_letta[0].refuse()
    scene.let_pass(_AWAY)
    scene.rig.to_letta[0].resume()


def _black_hole(scene: Scene) -> None:
    scene.strike()
    scene.rig.to_letta[0].blackhole()
    scene.let_pass(_AWAY)
    scene.rig.to_letta[0].resume()


def _cut(scene: Scene) -> None:
    scene.strike()
    for _ in range(3):
        scene.rig.to_letta[0].cut()
        scene.let_pass(scene.random.uniform(0.1, 0.6))


def _late(code: int) -> Fault:
    what = f"Letta answers {code} to 6 turns after a tool step was stored"
    return Fault(f"letta/{code}-after-tool", what, _dialled("late_status", 6, code=code))


def _dialled(mode: str, times: int, **details: float) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        scene.strike()
        double = scene.rig.letta[0]
        double.fail(mode, times=times, **details)
        talk = scene.conversation
        wait_until(lambda: double.seen()["struck"] >= times or (talk.wait_pushed(0) and talk.wait_all(0)), _STRUCK)

    return act


def _delete_agents(scene: Scene) -> None:
    url = scene.rig.letta_url
    users = scene.conversation.users[::2]
    scene.strike()
    for user in users:
        for agent in httpx.get(f"{url}/v1/agents", params=[("tags", f"user:{user}")]).json():
            httpx.delete(f"{url}/v1/agents/{agent['id']}").raise_for_status()


def _one_of_two(scene: Scene) -> None:
    victim = scene.random.choice(scene.rig.letta)
    scene.strike()
    victim.kill()
    scene.let_pass(_AWAY)
    scene.rig.restart(victim)


def _memory_killed(scene: Scene) -> None:
    memory = scene.rig.memory
    scene.strike()
    scene.rig.to_letta[0].refuse()
    scene.let_pass(scene.random.uniform(0.5, 2.0))
    if memory is not None:
        memory.kill()
        scene.let_pass(2.0)
        scene.rig.restart(memory)
    scene.let_pass(2.0)
    scene.rig.to_letta[0].resume()


def _memory_gone(scene: Scene) -> None:
    memory = scene.rig.memory
    scene.strike()
    scene.rig.to_letta[0].refuse()
    if memory is not None:
        memory.kill()
        scene.let_pass(12.0)
        scene.rig.restart(memory)
    scene.rig.to_letta[0].resume()
