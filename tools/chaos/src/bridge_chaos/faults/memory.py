"""memory-python is killed, unavailable, without a model, or replaced, while it answers in place of Letta."""

from __future__ import annotations

from typing import Final

from bridge_chaos.fault import Fault, FaultContext, parts
from bridge_chaos.load import Load
from bridge_chaos.speaker import Speaker
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import restart

_ASKING_USERS: Final = 3
_GONE_SECONDS: Final = 12.0
"""Longer than a fallback may take."""
_BOTH: Final = parts("memory", "letta-link")


def faults() -> list[Fault]:
    """All of them."""
    return [
        Fault(
            "memory/killed",
            "memory-python gets SIGKILL while it answers in place of Letta, and is started again after 2 s; Letta "
            "follows later",
            _killed,
            occupies=_BOTH,
        ),
        Fault(
            "memory/gone",
            "Letta and memory-python are both unavailable, for longer than a fallback may take",
            _gone,
            load=Load(users=12, messages=3, seconds=2.0),
            occupies=_BOTH,
        ),
        Fault(
            "memory/plain",
            "Letta is unavailable, and memory-python has no model, so it answers with its canned sentence",
            _letta_away,
            topology=Topology(memory="plain"),
            occupies=parts("letta-link"),
        ),
        Fault(
            "memory/foreign",
            "Letta is unavailable, and another implementation of memory-python answers, one user after the other",
            _letta_away,
            topology=Topology(memory="foreign"),
            load=Load(users=8, messages=4, seconds=6.0),
            occupies=parts("letta-link"),
        ),
        Fault(
            "memory/foreign-same-ids",
            "Letta is unavailable, and two users' tasks with the same task id are at another implementation of "
            "memory-python",
            _same_ids,
            topology=Topology(memory="foreign"),
            load=Load(users=4, messages=2, seconds=2.0),
            occupies=parts("letta-link"),
        ),
    ]


def _killed(context: FaultContext) -> None:
    context.strike()
    context.environment.letta.link.refuse()
    context.let_pass(context.random.uniform(0.5, 2.0))
    if context.environment.memory is not None:
        context.environment.memory.kill()
        context.let_pass(2.0)
        restart(context.environment.memory)
    context.let_pass(2.0)
    context.environment.letta.link.resume()


def _gone(context: FaultContext) -> None:
    context.strike()
    context.environment.letta.link.refuse()
    if context.environment.memory is not None:
        context.environment.memory.kill()
        context.let_pass(_GONE_SECONDS)
        restart(context.environment.memory)
    context.environment.letta.link.resume()


def _letta_away(context: FaultContext) -> None:
    context.strike()
    context.environment.letta.link.refuse()
    context.let_pass(6.0)
    context.environment.letta.link.resume()


def _same_ids(context: FaultContext) -> None:
    speakers = [Speaker(context, f"diagnosis{number}") for number in range(_ASKING_USERS)]
    for speaker in speakers:
        speaker.ask("Hello.", "hello")
    context.strike()
    context.environment.letta.link.refuse()
    for task_id in ("1", "2", "3"):
        for speaker in speakers:
            speaker.say("What is my diagnosis?", task_id)
        for speaker in speakers:
            text = str(speaker.reply(speaker.task(task_id)).get("response_text"))
            others = [other.user for other in speakers if other is not speaker and other.user in text]
            context.check(
                "strangers", not others, f"{speaker.user} #{task_id} was answered with {text!r}", speaker.user
            )
    context.environment.letta.link.resume()
    for speaker in speakers:
        speaker.ask("Hello again.", "again")
        known = [other.user for other in speakers if other is not speaker and speaker.is_known(other.user)]
        context.check("strangers", not known, f"the agent of {speaker.user} knows of {known}", speaker.user)
