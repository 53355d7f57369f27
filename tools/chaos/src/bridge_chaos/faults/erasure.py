"""An operator erases users during the load: their earlier messages must be gone everywhere, and stay gone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from bridge_chaos.command_line import insist
from bridge_chaos.fault import Fault, FaultContext, parts
from bridge_chaos.load import Load
from bridge_chaos.remains import remains_of
from bridge_chaos.speaker import Speaker
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import restart, revive

_NEEDS: Final = parts("operator", "redis", "letta", "bridges")
_LOAD: Final = Load(messages=9, seconds=9.0)
_ERASED_USERS: Final = 2
_WAITING_TASKS: Final = 30
_AWAY_SECONDS: Final = 3.0
_SPREAD_SECONDS: Final = 60.0
"""Until hosts have erased what they alone keep."""
_BACK_SECONDS: Final = 5.0
"""Within which something that was overlooked would come back."""
_PUSHED_SECONDS: Final = 60.0


def faults() -> list[Fault]:
    """All of them."""
    return [
        Fault(
            "erasure/talking",
            f"{_ERASED_USERS} users are erased while they send messages",
            _talking,
            load=_LOAD,
            needs=_NEEDS | parts("memory"),
        ),
        Fault(
            "erasure/in-fallback",
            f"Letta is unavailable, {_ERASED_USERS} users are erased after memory-python has answered them, and "
            "Letta is available again",
            _in_fallback,
            load=_LOAD,
            occupies=parts("letta-link"),
            needs=_NEEDS | parts("memory"),
        ),
        Fault(
            "erasure/waiting",
            f"a user with {_WAITING_TASKS} waiting tasks, under two forms of a numeric id, is erased",
            _waiting,
            topology=Topology(latency=0.8),
            needs=_NEEDS,
        ),
        Fault(
            "erasure/memory-away",
            "users are erased while their tasks wait for memory-python, which is down",
            _memory_away,
            occupies=parts("memory", "letta-link"),
            needs=_NEEDS,
        ),
        Fault(
            "erasure/other-host",
            "users are erased while the other host, which has its own data directory, is down",
            _other_host,
            topology=Topology(own_data=True, database=False),
            occupies=parts("bridges"),
            needs=parts("operator", "redis", "letta"),
        ),
    ]


def _talking(context: FaultContext) -> None:
    """Users of the load are erased: their messages during the erasure are either erased or part of a new history."""
    context.strike()
    talk = context.conversation
    marks: list[str] = []
    for user in context.random.sample(talk.users[: -talk.load.choosing], _ERASED_USERS):
        marks += [talk.utterances[task].mark for task in talk.tasks_of([user])]
        _erase(context, user)
        for promise in ("lost", "forgotten", "journal", "repeated_replies"):
            context.expect(promise, talk.tasks_of([user]))
    talk.wait_pushed(_PUSHED_SECONDS)
    _nothing_left(context, marks)


def _in_fallback(context: FaultContext) -> None:
    context.environment.letta.link.refuse()
    context.let_pass(_AWAY_SECONDS)
    context.environment.letta.link.resume()
    _talking(context)


def _waiting(context: FaultContext) -> None:
    """The erasure holds and empties the lane: processing the tasks singly would exceed its time limit."""
    number = context.random.randrange(10**9, 10**10)
    speaker = Speaker(context, "waiting", user=str(number))
    speaker.ask(_words(speaker, 0), "0")
    for place in range(1, _WAITING_TASKS):
        form: dict[str, Any] = {"user_id": number} if place % 2 else {}
        speaker.say(_words(speaker, place), str(place), **form)
    context.strike()
    _erase(context, speaker.user)
    context.let_pass(_BACK_SECONDS)
    _nothing_left(context, [_mark(speaker, place) for place in range(_WAITING_TASKS)])


def _memory_away(context: FaultContext) -> None:
    memory = context.environment.memory
    if memory is None:
        return
    speakers = [Speaker(context, f"unheard{number}") for number in range(_ERASED_USERS)]
    for speaker in speakers:
        speaker.ask(_words(speaker, 0), "0")
    context.strike()
    memory.kill()
    context.environment.letta.link.refuse()
    for speaker in speakers:
        speaker.ask(_words(speaker, 1), "1")
    context.environment.letta.link.resume()
    for speaker in speakers:
        _erase(context, speaker.user)
    restart(memory)
    context.let_pass(_BACK_SECONDS)
    _nothing_left(context, [_mark(speaker, place) for speaker in speakers for place in range(2)])


def _other_host(context: FaultContext) -> None:
    """The user's id is also removed from the sessions of the stopped host after its restart."""
    speakers = [Speaker(context, f"elsewhere{number}") for number in range(_ERASED_USERS)]
    for place in range(6):  # by either bridge
        for speaker in speakers:
            speaker.ask(_words(speaker, place), str(place))
    context.strike()
    other = context.environment.bridges[1]
    other.kill()
    for speaker in speakers:
        _erase(context, speaker.user)
    revive(other)
    _nothing_left(context, [speaker.user for speaker in speakers])


def _erase(context: FaultContext, user: str) -> None:
    erased = insist(context, "user", "erase", user, "--yes")
    context.check("erased", erased.succeeded, str(erased), user)


def _nothing_left(context: FaultContext, marks: Collection[str]) -> None:
    """Search every place until it contains none of these words, or the time limit passes."""
    left = remains_of(context.environment, marks)
    for _ in range(round(_SPREAD_SECONDS)):
        if not left:
            break
        context.let_pass(1.0)
        left = remains_of(context.environment, marks)
    context.checked.add("erased")
    for place, mark in left:
        context.check("erased", kept=False, text=f"{mark!r} is left in {place}")


def _words(speaker: Speaker, number: int) -> str:
    return f"This is secret {_mark(speaker, number)}."


def _mark(speaker: Speaker, number: int) -> str:
    return f"{speaker.user}#{number}"
