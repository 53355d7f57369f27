"""Models that are slow, silent, or write nonsense: what a turn of minutes does, with limits scaled down."""

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
    ("LETTA_TIMEOUT", "2"),
    ("REPLY_DEADLINE", "3"),
    ("LETTA_BRIDGE_LETTA_TURN_PATIENCE", "1"),
)
"""Of 90, 60 and 30 s one thirtieth: the slow turns here are as five minutes there."""
_STRUCK_SECONDS: Final = 60.0
_QUICK_SECONDS: Final = 20.0
_NONSENSICAL: Final = 12
"""Answers of a run."""
_TURNS: Final = parts("letta-turns")
_NEEDS: Final = parts("letta", "letta-double")
_OUTLASTS: Final = Window(
    "Letta's cancel does not stop a model's call. A turn that outlasts its own deadline and the patience of the user's "
    "next one goes on beside that one, and is stored after it.",
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
            "8 turns take four times as long as a reply may, and their users speak on",
            _slow(8),
            topology=slow,
            load=Load(users=8, messages=6, seconds=12.0),
            window=_OUTLASTS,
            occupies=_TURNS,
            needs=_NEEDS,
        ),
        Fault(
            "model/slow-user",
            "six turns of one user take four times as long as a reply may; everybody else is answered by Letta",
            _slow_user,
            topology=slow,
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


def _slow(times: int) -> Callable[[FaultContext], None]:
    def act(context: FaultContext) -> None:
        context.strike()
        double = context.environment.letta.double
        double.fail("hang", times=times, details={"seconds": _SLOW_SECONDS})
        wait_until(lambda: double.struck() >= times or context.conversation.is_over, _STRUCK_SECONDS, pause=0.1)
        context.cover(context.conversation.tasks_of(context.conversation.users))

    return act


def _slow_user(context: FaultContext) -> None:
    """One user's context is no reason to leave Letta alone for everybody."""
    double = context.environment.letta.double
    slow, quick = Speaker(context, "slow"), Speaker(context, "quick")
    quick.ask("Hello.", "0")
    context.strike()
    double.fail("hang", times=6, details={"seconds": _SLOW_SECONDS, "only": "novel"})
    tasks = [slow.say(f"Write a novel, part {number}.", str(number)) for number in range(6)]
    context.cover([*tasks])
    for task in tasks:
        slow.reply(task)
        source = quick.ask(f"Hello after {task.task_id}.", f"q{task.task_id}").get("source")
        text = f"{quick.user} was answered by {source} because another user's turns are slow"
        context.check("accounts", source == "letta", text, quick.user)
    wait_until(lambda: not double.seen()["at_work"], _QUICK_SECONDS)


def _says(text: str) -> Callable[[FaultContext], None]:
    def act(context: FaultContext) -> None:
        context.strike()
        double = context.environment.letta.double
        double.fail("text", times=_NONSENSICAL, details={"text": text})
        wait_until(lambda: double.struck() >= _NONSENSICAL or context.conversation.is_over, _STRUCK_SECONDS, pause=0.1)

    return act
