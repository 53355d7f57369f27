"""Task ids used again, for the same or other content, within and after the lifetime of the reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from bridge_chaos.fault import Fault, FaultContext, parts
from bridge_chaos.observer import Reply, is_answer
from bridge_chaos.speaker import Speaker
from bridge_chaos.topology import Topology

_SPEAKERS: Final = 3
_REPLY_TTL_SECONDS: Final = 3.0
_SHORT: Final = Topology(variables=(("REPLY_TTL_SECONDS", f"{_REPLY_TTL_SECONDS:g}"),))


def faults() -> list[Fault]:
    """All of them."""
    return [
        Fault(
            "ids/same-task",
            "a task is pushed three times at once, and again after its reply",
            _same_task,
            needs=parts("letta"),
        ),
        Fault(
            "ids/other-words",
            "a different task is pushed with the id of a task that was just answered",
            _other_words,
            needs=parts("letta"),
        ),
        Fault(
            "ids/other-words-waiting",
            "two tasks with the same id and different content wait at the same time",
            _other_words_waiting,
            needs=parts("letta"),
        ),
        Fault(
            "ids/after-window",
            "a task id is used again after its stored reply has expired, and Letta answers 500 once",
            _after_window(_refused_once),
            topology=_SHORT,
            occupies=parts("letta-turns"),
            needs=parts("letta", "letta-double"),
        ),
        Fault(
            "ids/after-window-killed",
            "a task id is used again after its stored reply has expired, and the bridges are killed before they "
            "send the task",
            _after_window(_killed_once),
            topology=_SHORT,
            occupies=parts("bridges"),
            needs=parts("letta"),
        ),
    ]


def _speakers(context: FaultContext) -> list[Speaker]:
    return [Speaker(context, f"speaker{number}") for number in range(_SPEAKERS)]


def _same_task(context: FaultContext) -> None:
    context.strike()
    for speaker in _speakers(context):
        for _ in range(3):
            task = speaker.say("I am pushed again.", "1")
        first = speaker.reply(task)
        again = speaker.ask("I am pushed again.", "1")
        texts = {str(reply.get("response_text")) for reply in (first, again)}
        context.check("repeated_replies", len(texts) == 1, f"{task} got different replies: {sorted(texts)}", task)
        _told_once(context, speaker, ["I am pushed again."])


def _other_words(context: FaultContext) -> None:
    context.strike()
    for speaker in _speakers(context):
        speaker.ask("My name is Ada.", "1")
        _is_refused_or_answered(context, speaker, "I have moved to Paris.", speaker.ask("I have moved to Paris.", "1"))
        _told_once(context, speaker, ["My name is Ada."])


def _other_words_waiting(context: FaultContext) -> None:
    context.strike()
    for speaker in _speakers(context):
        speaker.say("My name is Ada.", "1")
        task = speaker.say("I have moved to Paris.", "1")
        speaker.reply(task)
        _is_refused_or_answered(context, speaker, "I have moved to Paris.", speaker.reply(task, number=2))
        _told_once(context, speaker, ["My name is Ada."])


def _is_refused_or_answered(context: FaultContext, speaker: Speaker, words: str, reply: Reply) -> None:
    """Other content with an id in use is refused or answered; it never gets the earlier task's reply."""
    task_id = str(reply.get("task_id"))
    text = f"{speaker.user} #{task_id}: {words!r} was answered with {reply.get('response_text')!r}"
    if is_answer(reply):
        context.check("strangers", words in str(reply.get("response_text")), text, speaker.user)
    else:
        context.check(
            "unclear", bool(reply.get("code") and reply.get("message")), f"{text}, {dict(reply)}", speaker.user
        )


def _told_once(context: FaultContext, speaker: Speaker, words: Sequence[str]) -> None:
    told = speaker.told()
    for said in words:
        times = told.count(said)
        context.check("repeated_messages", times <= 1, f"{said!r} of {speaker.user} {times} times", speaker.user)
        if not speaker.fell_back(speaker.task("1")):
            context.check("forgotten", times >= 1, f"{said!r} of {speaker.user}", speaker.user)


def _after_window(trouble: Callable[[FaultContext, Callable[[], None]], None]) -> Callable[[FaultContext], None]:
    def act(context: FaultContext) -> None:
        speakers = _speakers(context)
        for speaker in speakers:
            speaker.ask("My name is Ada.", "1")
        context.let_pass(_REPLY_TTL_SECONDS + 0.5)
        context.strike()

        def say_again() -> None:
            for speaker in speakers:
                speaker.say("I have moved to Paris.", "1")

        trouble(context, say_again)
        for speaker in speakers:
            reply = speaker.reply(speaker.task("1"), number=2)
            text = f"{speaker.user}: 'I have moved to Paris.' was answered with {reply.get('response_text')!r}"
            context.check("strangers", "Paris" in str(reply.get("response_text")), text, speaker.user)
            _told_once(context, speaker, ["My name is Ada.", "I have moved to Paris."])

    return act


def _refused_once(context: FaultContext, say_again: Callable[[], None]) -> None:
    """Each of these turns is refused with 500 the first time."""
    details: dict[str, float | str] = {"code": 500, "only": "moved to Paris"}
    context.environment.letta.double.fail("status", times=_SPEAKERS, details=details)
    say_again()


def _killed_once(context: FaultContext, say_again: Callable[[], None]) -> None:
    """Both bridges die with turns that they have not sent."""
    for bridge in context.environment.bridges:
        bridge.kill()
    say_again()
    context.environment.die_at("looked_up:KILL:1", *context.environment.bridges)
