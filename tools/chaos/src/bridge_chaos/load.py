"""The users' messages: each contains its number, user and persona, so that it can be recognised anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from bridge_chaos.environment import PERSONA

DEFAULT_PERSONA: Final = "default"
SPOKEN: Final = "[[pace:20]] Well, let me see. 这是第二句话。 And this is the third! "
"""Begins the messages whose replies are streamed: the answer has several sentences, and takes its time."""
_INTERRUPTED: Final = 4
"""Of so many messages one may be interrupted, if its reply is streamed."""
_SAID: Final = re.compile(r"第(\d+)句 from ([^\s#\"\\]+)#\d+(?: to (\w+))?\.")


class Task(NamedTuple):
    """Identifies a task: task ids are unique only per user, and every user counts from 0 here."""

    user: str
    task_id: str

    def __str__(self) -> str:
        return f"{self.user} #{self.task_id}"


@dataclass(frozen=True)
class Utterance:
    """One message of a user to a persona."""

    user: str
    number: int
    persona: str = DEFAULT_PERSONA

    @property
    def task(self) -> Task:
        return Task(self.user, str(self.number))

    @property
    def text(self) -> str:
        """The message's text; `recognised` parses it."""
        to = "" if self.persona == DEFAULT_PERSONA else f" to {self.persona}"
        return f"第{self.number}句 from {self.user}#{self.number}{to}."

    @property
    def mark(self) -> str:
        """A part of the text that is unique and the same in every encoding."""
        return f"{self.user.encode('ascii', 'ignore').decode()}#{self.number}"

    def payload(self, prefix: str = "", *, stream: bool = False) -> str:
        """The task as a producer pushes it; ``stream`` asks for its reply in parts."""
        content = {"task_id": str(self.number), "user_id": self.user, "content": prefix + self.text}
        meta: dict[str, object] = {} if self.persona == DEFAULT_PERSONA else {"persona": self.persona}
        if stream:
            meta["stream"] = True
        return json.dumps(content | ({"meta": meta} if meta else {}), ensure_ascii=False)


def recognised(text: object) -> Iterator[Utterance]:
    """All users' messages that a text quotes."""
    for number, user, persona in _SAID.findall(str(text)):
        yield Utterance(user, int(number), persona or DEFAULT_PERSONA)


@dataclass(frozen=True)
class Load:
    """How much is said.

    Attributes:
        users: how many talk.
        messages: how many each says, before a last one when the fault is over.
        seconds: how long it takes to push them all.
        prefix: begins every message: what the scripted model is to do, say.
        with_persona: so many of them talk to another persona at every second message.
        choosing: so many switch permanent memory off after a third of their messages; every other one of them switches
            it on again after two thirds.
        streamed: every second message of a user asks for its reply in parts, and some of those replies are interrupted.
    """

    users: int = 16
    messages: int = 6
    seconds: float = 3.0
    prefix: str = ""
    with_persona: int = 2
    choosing: int = 2
    streamed: bool = True

    @property
    def count(self) -> int:
        """Messages in all."""
        return self.users * self.messages

    def persona(self, place: int, number: int) -> str:
        """The persona to which this user sends the message of this number."""
        return PERSONA if place < self.with_persona and number % 2 else DEFAULT_PERSONA

    def is_streamed(self, place: int, number: int) -> bool:
        """Whether this user asks for the reply to this message in parts."""
        return self.streamed and (place + number // 2) % 2 == 0

    def is_interrupted(self, place: int, number: int) -> bool:
        """Whether this user interrupts the reply to this message."""
        return self.is_streamed(place, number) and (place // 2 + number) % _INTERRUPTED == 0

    def merged(self, other: Load) -> Load:
        """A load under which both faults find tasks to affect."""
        return Load(
            users=max(self.users, other.users),
            messages=max(self.messages, other.messages),
            seconds=max(self.seconds, other.seconds),
            prefix=self.prefix or other.prefix,
            with_persona=max(self.with_persona, other.with_persona),
            choosing=max(self.choosing, other.choosing),
            streamed=self.streamed and other.streamed,
        )
