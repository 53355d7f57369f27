"""Connections to Letta lost at every kind of call: before it is read, at work, in the answer, and before the answer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from bridge_chaos.command_line import insist
from bridge_chaos.fault import Fault, FaultContext, parts
from bridge_chaos.speaker import Speaker
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import wait_until
from local_stack.letta_double.dials import CUTS

_STRUCK_SECONDS: Final = 60.0
_WORKING_SECONDS: Final = 1.0
"""Letta does what it was asked for so long after its client has gone."""
_POINTS: Final = dict(zip(CUTS, ("request", "working", "answer", "done"), strict=True))
_WHEN: Final = {
    "request": "before Letta has read the request",
    "working": "while Letta works, which completes a second later",
    "answer": "in the middle of the answer",
    "done": "when the call is complete",
}
_DESERTED_TURNS: Final = 2
"""Users whose runs a killed server leaves behind."""
_UNFINISHED: Final = "the server is killed during this turn"
_ENDLESS_SECONDS: Final = 30.0
_LISTED_SECONDS: Final = 1.0
"""Letta lists a run within them."""
_SERVED_SECONDS: Final = 120.0
_PAUSE_SECONDS: Final = 1.0
_TOPOLOGY: Final = Topology()
_SHORT_RUNS: Final = Topology(variables=(("LETTA_BRIDGE_LETTA_RUN_LIFETIME_SECONDS", "6"),))
"""Shorter than a run here, so that a bridge that has not seen the server gone cancels what it left behind, too."""
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


def faults() -> list[Fault]:
    """All of them."""
    calls = [
        _Call("list_agents", "agents are listed", 6, at_once=True),
        _Call("create", "agents are made", 6, topology=_OWN_FILES, at_once=True),
        _Call("send", "turns are sent", 8),
        _Call("history", "messages are listed", 4, _doubtful_turns),
        _Call("runs", "runs are listed", 4, _doubtful_turns),
        _Call("delete", "agents are deleted", 2, _erased_user),
        _Call("retag", "agents are tagged with an opt-out", 2, at_once=True),
        _Call("get", "an agent is read", 4, _doubtful_turns, points=_READ),
        _Call("run", "the end of a run is read", 4, _doubtful_turns, points=_READ),
        _Call("tags", "the tags in use are listed", 2, _restarted_bridge, points=_READ, occupies=_AND_A_BRIDGE),
    ]
    found = [_fault(call, mode, point) for call in calls for mode, point in _POINTS.items() if point in call.points]
    found += [_cancel_fault(mode, point) for mode, point in _POINTS.items()]
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
        if not call.at_once:
            _dial(call, mode)(context)
        call.provoke(context)
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
    """Turns whose answer is lost are searched for."""
    context.environment.letta.double.fail("cut", times=8)


def _cancel_fault(mode: str, point: str) -> Fault:
    return Fault(
        f"letta-call/cancel-{point}",
        f"runs that a killed server left are cancelled, and {_DESERTED_TURNS} connections are lost {_WHEN[point]}",
        _cancel(mode),
        topology=_SHORT_RUNS,
        occupies=_AND_THE_SERVER,
        needs=_NEEDS,
    )


def _cancel(mode: str) -> Callable[[FaultContext], None]:
    """The server is killed during one turn each of two users, whose next turns have to cancel the abandoned runs."""

    def act(context: FaultContext) -> None:
        letta = context.environment.letta
        double = letta.double
        speakers = [Speaker(context, f"deserted-{number}") for number in range(_DESERTED_TURNS)]
        for speaker in speakers:
            speaker.ask("Hello.", "0")
        double.fail("hang", times=_DESERTED_TURNS, details={"seconds": _ENDLESS_SECONDS, "only": _UNFINISHED})
        for speaker in speakers:
            speaker.say(_UNFINISHED, "1")
        wait_until(lambda: double.struck() >= _DESERTED_TURNS, _STRUCK_SECONDS, pause=0.05)
        context.let_pass(_LISTED_SECONDS)
        letta.kill_and_restart(double)
        double.fail(mode, operation="cancel", times=_DESERTED_TURNS, details={"seconds": _WORKING_SECONDS})
        for speaker in speakers:
            _speak_until_served(context, speaker)
        double.fail(mode, operation="cancel", times=0)

    return act


def _speak_until_served(context: FaultContext, speaker: Speaker) -> None:
    """Send messages until Letta answers the user again.

    The agent then contains the message during which Letta was killed. An open circuit breaker delays this.
    """
    double = context.environment.letta.double
    until = time.monotonic() + _SERVED_SECONDS
    for number in itertools.count(2):
        source = speaker.ask(f"Once more, {number}.", str(number)).get("source")
        if context.struck_at is None and double.struck("cancel"):
            context.strike()
        if source == "letta" or time.monotonic() > until:
            break
        context.let_pass(_PAUSE_SECONDS)
    context.check("accounts", source == "letta", f"{speaker.user} is answered by {source} only", speaker.user)
    context.check("forgotten", speaker.is_known(_UNFINISHED), f"the agent of {speaker.user} lacks a turn", speaker.user)


def _restarted_bridge(context: FaultContext) -> None:
    """A starting bridge reads the opt-outs from the agents' tags."""
    context.victim.restart()


def _erased_user(context: FaultContext) -> None:
    """An operator erases a user, and repeats an interrupted erasure."""
    speaker = Speaker(context, "erased")
    speaker.ask("hello", "1")
    done = insist(context, "user", "erase", speaker.user, "--yes")
    context.check("erased", done.succeeded, str(done), speaker.user)
    context.check("erased", speaker.told() == [], f"the agent of {speaker.user} is left", speaker.user)
