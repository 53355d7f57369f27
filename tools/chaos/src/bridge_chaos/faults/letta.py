"""Faults of Letta's double: it is killed, refuses, stalls, closes connections, repeats answers, or loses an agent."""

from __future__ import annotations

from typing import Final

from bridge_chaos.fault import Fault, FaultContext, Window, parts
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import wait_until

_AWAY_SECONDS: Final = 6.0
_STRUCK_SECONDS: Final = 60.0
_SERVER: Final = parts("letta", "letta-double")
_LINK: Final = parts("letta-link")
_TURNS: Final = parts("letta-turns")
_DELETED: Final = Window(
    "Memory that only the deleted agent had is deleted with it; messages after the deletion are kept.",
    frozenset({"forgotten"}),
)


def faults() -> list[Fault]:
    """All of them."""
    refusals = [
        _dialled(f"{code}", f"Letta answers {code} to 12 turns and stores nothing", "status", 12, code=code)
        for code in (401, 409, 429, 500)
    ]
    late_refusals = [
        _dialled(
            f"{code}-after-tool",
            f"Letta answers {code} to 6 turns after a tool step was stored",
            "late_status",
            6,
            code=code,
        )
        for code in (429, 500)
    ]
    return [
        Fault(
            "letta/kill",
            "Letta gets SIGKILL before the first step of its turns, and is started again after 2 s",
            _kill,
            occupies=_SERVER | _LINK,
        ),
        Fault(
            "letta/kill-after-tool",
            "Letta gets SIGKILL after a tool step was stored, and is started again after 2 s",
            _kill_tool,
            occupies=_SERVER | _LINK | _TURNS,
        ),
        Fault("letta/away", f"Letta refuses connections for {_AWAY_SECONDS:g} s", _away, occupies=_LINK),
        Fault(
            "letta/black-hole",
            f"no byte passes between Letta and the bridges for {_AWAY_SECONDS:g} s",
            _black_hole,
            occupies=_LINK,
        ),
        Fault("letta/cut", "all connections to Letta are reset during turns, three times", _cut, occupies=_LINK),
        *refusals,
        *late_refusals,
        _dialled("empty", "Letta stores 6 turns and does not answer", "empty", 6),
        _dialled("hang", "4 turns take 3 s longer than the bridge's deadline", "hang", 4, seconds=7.0),
        _dialled(
            "late-run", "the runs of 8 turns of 4.5 s appear in Letta's list only after 3 s", "late_run", 8, seconds=4.5
        ),
        _dialled("drip", "4 answers arrive byte by byte within 3 s", "drip", 4, seconds=3.0),
        _dialled("drip-long", "4 answers arrive byte by byte, more slowly than the deadline", "drip", 4, seconds=8.0),
        _dialled("cut-answer", "8 turns are stored, and their connections are closed without an answer", "cut", 8),
        _dialled("twice", "20 answers are sent twice on the same connection", "twice", 20),
        _dialled(
            "twice-late", "20 answers are sent again, each after the next request on its connection", "twice_late", 20
        ),
        Fault(
            "letta/agent-deleted",
            "half of the agents are deleted in Letta, without the bridges",
            _delete_agents,
            window=_DELETED,
            needs=_SERVER,
        ),
        Fault(
            "letta/one-of-two",
            f"one of two Letta servers with a common database gets SIGKILL, and is started again after "
            f"{_AWAY_SECONDS:g} s",
            _one_of_two,
            topology=Topology(letta_servers=2),
            occupies=_SERVER | _LINK,
        ),
    ]


def _kill(context: FaultContext) -> None:
    context.strike()
    letta = context.environment.letta
    letta.kill_and_restart(letta.double, away=2.0)


def _kill_tool(context: FaultContext) -> None:
    double = context.environment.letta.double
    double.fail("tool", times=6, details={"seconds": 1.0})
    wait_until(lambda: double.struck() >= 1, _STRUCK_SECONDS)
    context.let_pass(0.6)
    _kill(context)


def _away(context: FaultContext) -> None:
    context.strike()
    context.environment.letta.link.refuse()
    context.let_pass(_AWAY_SECONDS)
    context.environment.letta.link.resume()


def _black_hole(context: FaultContext) -> None:
    context.strike()
    context.environment.letta.link.blackhole()
    context.let_pass(_AWAY_SECONDS)
    context.environment.letta.link.resume()


def _cut(context: FaultContext) -> None:
    context.strike()
    for _ in range(3):
        context.environment.letta.link.cut()
        context.let_pass(context.random.uniform(0.1, 0.6))


def _dialled(name: str, what: str, mode: str, times: int, **details: float) -> Fault:
    def act(context: FaultContext) -> None:
        context.strike()
        double = context.environment.letta.double
        double.fail(mode, times=times, details=details)
        wait_until(lambda: double.struck() >= times or context.conversation.is_over, _STRUCK_SECONDS, pause=0.1)

    return Fault(f"letta/{name}", what, act, occupies=_TURNS, needs=_SERVER)


def _delete_agents(context: FaultContext) -> None:
    users = context.conversation.users[::2]
    context.strike()
    with context.environment.letta.reader() as reader:
        for user in users:
            for agent in reader.agents([f"user:{user}"]):
                reader.delete(str(agent["id"]))
    context.cover(context.conversation.tasks_of(users))


def _one_of_two(context: FaultContext) -> None:
    victim = context.random.choice(context.environment.letta.doubles)
    context.strike()
    context.environment.letta.kill_and_restart(victim, away=_AWAY_SECONDS)
