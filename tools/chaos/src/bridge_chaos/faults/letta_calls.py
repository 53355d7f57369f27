"""Connections to Letta lost at every kind of call: before it is read, at work, in the answer, and before the answer."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from bridge_chaos.command_line import insist
from bridge_chaos.fault import Fault, FaultContext, parts
from bridge_chaos.letta_double.dials import CUTS
from bridge_chaos.speaker import Speaker
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import wait_until

_STRUCK_SECONDS: Final = 60.0
_WORKING_SECONDS: Final = 1.0
"""Letta does what it was asked for so long after its client has gone."""
_POINTS: Final = dict(zip(CUTS, ("request", "working", "answer", "done"), strict=True))
_WHEN: Final = {
    "request": "before Letta has read the request",
    "working": "while Letta works, which it does a second later",
    "answer": "in the middle of the answer",
    "done": "when all is done",
}
_DESERTED: Final = 2
_TOPOLOGY: Final = Topology()
_OWN_FILES: Final = Topology(own_data=True, database=False)
"""Each bridge finds the agents that the other one made by their tags alone."""
_READ: Final = ("request", "answer")
"""Where a call that changes nothing is lost: what lies in between is the same to its caller."""
_OCCUPIES: Final = parts("letta-turns", "letta-calls")
_AND_A_BRIDGE: Final = _OCCUPIES | parts("bridge")
_AND_THE_SERVER: Final = _OCCUPIES | parts("letta", "letta-link")
_NEEDS: Final = parts("letta", "letta-double")


@dataclass(frozen=True)
class _Call:
    """One kind of call: how often it is struck, and how it comes about."""

    operation: str
    what: str
    times: int
    provoke: Callable[[FaultContext], None] = lambda _context: None
    topology: Topology = _TOPOLOGY
    at_once: bool = False
    points: Collection[str] = tuple(_POINTS.values())
    occupies: frozenset[str] = _OCCUPIES
    provoked_first: bool = False
    """The calls come about after the provocation, which would take a dial away."""


def faults() -> list[Fault]:
    """All of them."""
    calls = [
        _Call("list_agents", "agents are listed", 6, at_once=True),
        _Call("create", "agents are made", 6, topology=_OWN_FILES, at_once=True),
        _Call("send", "turns are sent", 8),
        _Call("history", "messages are listed", 4, _doubtful_turns),
        _Call("runs", "runs are listed", 4, _doubtful_turns),
        _Call("cancel", "runs are cancelled", 2, _deserted_runs, provoked_first=True, occupies=_AND_THE_SERVER),
        _Call("delete", "agents are deleted", 2, _erased_user),
        _Call("retag", "agents are tagged with an opt-out", 2, at_once=True),
        _Call("get", "an agent is read", 4, _doubtful_turns, points=_READ),
        _Call("run", "the end of a run is read", 4, _doubtful_turns, points=_READ),
        _Call("tags", "the tags in use are listed", 2, _restarted_bridge, points=_READ, occupies=_AND_A_BRIDGE),
    ]
    found = [_fault(call, mode, point) for call in calls for mode, point in _POINTS.items() if point in call.points]
    found.append(
        Fault(
            "letta-call/create-orphan",
            "Letta makes 6 agents and answers 500: creation is not atomic",
            _act(_Call("create", "", 6), "orphan"),
            prepare=_dial(_Call("create", "", 6), "orphan"),
            topology=_OWN_FILES,
            at_once=True,
            occupies=_OCCUPIES,
            needs=_NEEDS,
        )
    )
    return found


def _fault(call: _Call, mode: str, point: str) -> Fault:
    return Fault(
        f"letta-call/{call.operation.replace('_', '-')}-{point}",
        f"{call.what}, and {call.times} connections are lost {_WHEN[point]}",
        _act(call, mode),
        prepare=_dial(call, mode) if call.at_once else lambda _context: None,
        topology=call.topology,
        at_once=call.at_once,
        occupies=call.occupies,
        needs=_NEEDS | parts("operator"),
    )


def _dial(call: _Call, mode: str) -> Callable[[FaultContext], None]:
    def dial(context: FaultContext) -> None:
        context.environment.letta.double.fail(
            mode, operation=call.operation, times=call.times, details={"seconds": _WORKING_SECONDS}
        )

    return dial


def _act(call: _Call, mode: str) -> Callable[[FaultContext], None]:
    def act(context: FaultContext) -> None:
        double = context.environment.letta.double
        if not (call.at_once or call.provoked_first):
            _dial(call, mode)(context)
        call.provoke(context)
        if call.provoked_first:
            _dial(call, mode)(context)
        struck = wait_until(lambda: double.struck(call.operation) > 0, _STRUCK_SECONDS, pause=0.1)
        if struck:
            context.strike()
        wait_until(
            lambda: double.struck(call.operation) >= call.times or context.conversation.is_over,
            _STRUCK_SECONDS,
            pause=0.1,
        )
        # What has found no call by now is over: beside a Letta that is away, it would strike each try of a breaker.
        double.fail(mode, operation=call.operation, times=0)

    return act


def _doubtful_turns(context: FaultContext) -> None:
    """Turns whose answer is lost are looked for."""
    context.environment.letta.double.fail("cut", times=8)


def _deserted_runs(context: FaultContext) -> None:
    """Runs that a killed server left behind are cancelled for the user's next turn."""
    letta = context.environment.letta
    letta.double.fail("hang", times=_DESERTED, details={"seconds": 30.0})
    wait_until(lambda: int(letta.double.seen()["at_work"]) >= _DESERTED, _STRUCK_SECONDS, pause=0.05)
    letta.kill_and_restart(letta.double)


def _restarted_bridge(context: FaultContext) -> None:
    """A bridge that starts reads who opted out."""
    context.victim.restart()


def _erased_user(context: FaultContext) -> None:
    """An operator erases a user, and tries again where that broke off."""
    speaker = Speaker(context, "erased")
    speaker.ask("hello", "1")
    done = insist(context, "user", "erase", speaker.user, "--yes")
    context.check("erased", done.succeeded, str(done), speaker.user)
    context.check("erased", speaker.told() == [], f"the agent of {speaker.user} is left", speaker.user)
