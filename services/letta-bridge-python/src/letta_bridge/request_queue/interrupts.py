"""Interrupts: a user breaks off the turn that is being answered, or one that will be.

A program asks for one on the list ``letta_control``, and says how much of the reply the user heard. The queue notes it
before anything else, so that nothing of the reply is published afterwards, whichever bridge has the turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from shared_utils.contracts.limits import MAX_ID_LENGTH
from shared_utils.contracts.message_fields import ANONYMOUS, identifier
from shared_utils.contracts.messages import json_object
from shared_utils.errors import MalformedMessage
from shared_utils.observability import logs
from shared_utils.text import clean_text, is_clean, load_json

_log = logs.get("letta_bridge.streams")
_MAX_TEXT: Final = 1_000_000
_MAX_SEQ: Final = 1_000_000


def _exact(value: object) -> object:
    """An id as tasks have it, too. Raises ValueError where it could mean two users."""
    text = identifier(value)
    if isinstance(text, str) and not is_clean(text):
        raise ValueError("contains a character that cannot be kept")
    return text


def _clean(value: object) -> object:
    """A text as replies have it: programs that count in UTF-16 units cut an emoji in two."""
    return clean_text(value) if isinstance(value, str) else value


_UserId = Annotated[str, BeforeValidator(_exact), Field(min_length=1, max_length=MAX_ID_LENGTH)]
_TaskId = Annotated[str, BeforeValidator(_exact), Field(max_length=MAX_ID_LENGTH)]


class Heard(BaseModel):
    """How much of a reply its user has heard, in one of two ways.

    ``seq``: the last event that was played to its end, with ``characters`` of the sentence after it; an event before
    the first sentence means that nothing was heard. ``text``: the beginning of the reply that was heard.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int | None = Field(default=None, ge=-1, le=_MAX_SEQ)
    characters: int = Field(default=0, ge=0, le=_MAX_TEXT)
    """Of the ``text`` of the sentence after ``seq``."""
    text: Annotated[str | None, BeforeValidator(_clean), Field(max_length=_MAX_TEXT)] = None

    @model_validator(mode="after")
    def _says_it_once(self) -> Self:
        if (self.seq is None) == (self.text is None):
            raise ValueError("name either seq or text")
        return self


class InterruptRequest(BaseModel):
    """A message on ``letta_control``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["interrupt"]
    user_id: _UserId
    """Whose turn; always needed, because two users may use one task id."""
    task_id: _TaskId = ""
    """Empty: the turn of the user that is being answered."""
    heard: Heard | None = None
    """None: that is not known."""
    hand_out: str = Field(default="", exclude=True)
    """Without a task: break off only the turn of this receipt, and only if its reply is being published in parts, as a
    new message of the user does. By the time this arrives, the message itself may be in flight."""

    @classmethod
    def read(cls, message: bytes) -> Self:
        """Read a message. Raises MalformedMessage with one sentence."""
        try:
            content = load_json(message)
            if isinstance(content, dict):
                content.pop("hand_out", None)  # the bridge's own, and no part of a message
            return cls.model_validate(content)
        except ValidationError as error:
            raise MalformedMessage(f"the control message cannot be read: {_problem(error)}") from None
        except (ValueError, RecursionError) as error:
            raise MalformedMessage(f"the control message cannot be read: {error}") from None


def stored_request(value: bytes) -> InterruptRequest:
    """An interrupt as the queue holds it. One that cannot be read breaks the turn off all the same."""
    try:
        return InterruptRequest.read(value)
    except MalformedMessage as error:  # damaged, or of a later release: the turns beside it must not wait for it
        _log.error("interrupt_unreadable", error=str(error))
        return InterruptRequest(type="interrupt", user_id=ANONYMOUS)


def names_user(message: bytes, user_id: str) -> bool:
    """Whether a message on ``letta_control`` is about this user, also one that cannot be read otherwise."""
    try:
        return identifier(json_object(message).get("user_id")) == user_id
    except ValueError:
        return False


class InterruptOutcome(StrEnum):
    """What became of an interrupt."""

    INTERRUPTED = "interrupted"
    """The turn is in flight and is broken off."""
    WAITING = "waiting"
    """The task is not answered yet: it will be broken off before it begins."""
    OVER = "over"
    """The reply was complete before; the agent learns how much of it was heard."""
    REPEATED = "repeated"
    """The task was interrupted before; nothing changes."""
    NOTHING = "nothing"
    """No task was named, and no turn of the user is in flight."""
    FULL = "full"
    """Too many interrupts are kept; this one is dropped."""
    TAKEN = "taken"
    """Another bridge took the message that asks for it."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The result of an interrupt."""

    outcome: InterruptOutcome
    task_id: str = ""
    receipt: str = ""
    """Of the turn in flight."""
    kept_reply: bytes | None = None
    """Of a task that is over."""


class Interruption:
    """Whether one running turn is to be broken off; tells the turn once it is.

    Attributes:
        request: of the interrupt; None while there is none.
    """

    __slots__ = ("_break_off", "request")

    def __init__(self, request: InterruptRequest | None = None) -> None:
        self.request = request
        self._break_off: Callable[[], object] | None = None

    def ask(self, request: InterruptRequest) -> None:
        """Break the turn off. A second interrupt changes nothing."""
        if self.request is not None:
            return
        self.request = request
        if self._break_off is not None:
            self._break_off()

    def on_ask(self, break_off: Callable[[], object] | None) -> Callable[[], object] | None:
        """What breaks the turn off from now on, called once at most; None where nothing has to be done.

        Returns:
            what did before.
        """
        before, self._break_off = self._break_off, break_off
        return before


def _problem(error: ValidationError) -> str:
    problem: Any = error.errors(include_input=False, include_context=False, include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"][:4])
    said = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {said}" if where else said
