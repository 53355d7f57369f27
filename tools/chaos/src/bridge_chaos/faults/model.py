"""Slow, silent or nonsensical models; the limits are scaled down, so that seconds stand for minutes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bridge_chaos.fault import Fault, FaultContext, Window, parts
from bridge_chaos.load import Load
from bridge_chaos.speaker import Speaker
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import wait_until

_SLOW_SECONDS: Final = 11.0
_SHORT_LIMITS: Final = (
    ("LETTA_TIMEOUT_SECONDS", "2.5"),
    ("REPLY_DEADLINE_SECONDS", "3"),
    ("LETTA_BRIDGE_LETTA_PREVIOUS_TURN_TIMEOUT_SECONDS", "0.75"),
)
"""Of minutes seconds: to these limits the slow turns here are as ten minutes to the default ones."""
_NO_BREAKER: Final = (("LETTA_BRIDGE_LETTA_BREAKER_FAILURES", "1000"),)
_STRUCK_SECONDS: Final = 60.0
_LONG_MESSAGES: Final = 12
"""Slow turns of one user: enough to open the breakers of both bridges."""
_EVERY_CALL: Final = 10_000
_NONSENSICAL: Final = 12
"""Answers of a run."""
_TURNS: Final = parts("letta-turns")
_NEEDS: Final = parts("letta", "letta-double")
_OUTLASTS: Final = Window(
    "Letta's cancellation does not stop a call of the model. A turn that takes longer than its own deadline and the "
    "waiting time of the user's next turn continues beside that turn, and is stored after it.",
    frozenset({"overlaps", "out_of_order"}),
)
_NONSENSE: Final = (
    "<think>I should not say this",
    '{"name": "memory_insert", "arguments": {"value": "x"}}',
    "\x00\ud800 half an emoji",
    " \n\t ",
    "x" * 200_000,
)


def faults() -> list[Fault]:
    """All of them."""
    slow = Topology(variables=_SHORT_LIMITS)
    return [
        Fault(
            "model/slow",
            "every turn takes four times the reply deadline, and users continue to send messages",
            _slow,
            topology=Topology(variables=(*_SHORT_LIMITS, *_NO_BREAKER)),
            load=Load(users=6, messages=4, seconds=2.0, choosing=0),
            at_once=True,
            window=_OUTLASTS,
            occupies=_TURNS,
            needs=_NEEDS,
        ),
        Fault(
            "model/slow-user",
            f"{_LONG_MESSAGES} turns of one user take four times the reply deadline; Letta answers the other users",
            _slow_user,
            topology=slow,
            load=Load(users=4, messages=2, seconds=1.0, choosing=0),
            window=_OUTLASTS,
            occupies=_TURNS,
            needs=_NEEDS,
        ),
        *(
            Fault(
                f"model/nonsense-{number}",
                f"{_NONSENSICAL} answers are {_described(text)}",
                _says(text),
                occupies=_TURNS,
                needs=_NEEDS,
            )
            for number, text in enumerate(_NONSENSE)
        ),
    ]


def _described(text: str) -> str:
    names = ("an unclosed thought", "a tool call as text", "NUL and half an emoji", "blank", "200 kB")
    return names[_NONSENSE.index(text)]


def _slow(context: FaultContext) -> None:
    """Every turn is slow until all tasks have an outcome."""
    double = context.environment.letta.double
    context.strike()
    double.fail("hang", times=_EVERY_CALL, details={"seconds": _SLOW_SECONDS})
    context.conversation.wait_pushed(_STRUCK_SECONDS)
    context.conversation.wait_all(_STRUCK_SECONDS)
    double.fail("", times=0)
    context.cover(context.conversation.tasks_of(context.conversation.users))


def _slow_user(context: FaultContext) -> None:
    """One user's slow turns must not keep other users from Letta."""
    context.conversation.wait_pushed(_STRUCK_SECONDS)
    context.conversation.wait_all(_STRUCK_SECONDS)
    double = context.environment.letta.double
    slow, quick = Speaker(context, "slow"), Speaker(context, "quick")
    quick.ask("Hello.", "0")
    context.strike()
    double.fail("hang", times=_LONG_MESSAGES, details={"seconds": _SLOW_SECONDS, "only": "novel"})
    tasks = [slow.say(f"Write a novel, part {number}.", str(number)) for number in range(_LONG_MESSAGES)]
    context.cover(tasks)
    for task in tasks:
        slow.reply(task)
    sources = {quick.ask(f"Hello, {number}.", str(number)).get("source") for number in range(1, 5)}
    text = f"{quick.user} was answered by {sources} because another user's turns are slow"
    context.check("accounts", sources == {"letta"}, text, quick.user)


def _says(text: str) -> Callable[[FaultContext], None]:
    def act(context: FaultContext) -> None:
        context.strike()
        double = context.environment.letta.double
        double.fail("text", times=_NONSENSICAL, details={"text": text})
        wait_until(lambda: double.struck() >= _NONSENSICAL or context.conversation.is_over, _STRUCK_SECONDS, pause=0.1)

    return act
