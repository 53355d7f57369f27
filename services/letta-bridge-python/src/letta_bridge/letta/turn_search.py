"""Finds turns by otid in the history and runs that Letta lists.

Pure functions, shared by the adapter, the fake and their tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Self

from letta_bridge.letta.answer import FOUND, answer_of
from letta_bridge.letta.port import FoundTurn, FoundTurns, SoughtTurn, TurnState

Listed = Mapping[str, object]
"""One message as Letta lists it: ``message_type``, ``otid``, ``run_id``, ``content``, ``date`` and more."""

TOOL_KWARG_LABEL: Final = "assistant_message_tool_kwarg"
"""The request field that labels a run with the otid of its turn.

Letta 0.16.8 stores this field in the run's ``request_config`` and does not use it otherwise on the path of turns, so it
is the only field of a run that the sender can set.
"""

_ACTIVE: Final = frozenset({"created", "running"})
_CANCELLED_STATUS: Final = "cancelled"
_RUN_LIFETIME_SECONDS: Final = 1800.0
"""A run that has been active for longer is dead: Letta gives a model call ten minutes, and three tries."""
_MESSAGES_KEPT: Final = 1000
"""Messages kept while older pages are read: far more than one turn has."""
_OTID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NEVER_STORED: Final = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an agent."""

    run_id: str
    status: str
    label: str | None = None
    """The otid of its turn; None where the sender did not label it."""
    began: float | None = None
    """Seconds since 1970, by Letta's clock; None where Letta does not say."""

    @classmethod
    def listed(cls, run: Listed) -> Self:
        """A run as Letta lists it."""
        config = run.get("request_config")
        label = config.get(TOOL_KWARG_LABEL) if isinstance(config, Mapping) else None
        return cls(
            run_id=str(run.get("id")),
            status=str(run.get("status")),
            # Without a label the field holds the name of a tool's parameter.
            label=label if isinstance(label, str) and _OTID.fullmatch(label) else None,
            began=seconds(run.get("created_at")),
        )

    @property
    def active(self) -> bool:
        """Whether Letta has not marked it as ended. A killed server leaves its runs active."""
        return self.status in _ACTIVE

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled and has stored nothing since; otherwise it would be marked completed."""
        return self.status == _CANCELLED_STATUS

    def is_dead(self, now: float) -> bool:
        """Whether it has been active for longer than any run can last."""
        return self.began is not None and now - self.began >= _RUN_LIFETIME_SECONDS

    def may_be_of(self, turn: SoughtTurn) -> bool:
        """Whether this run can be one of the turn's."""
        if self.label is not None:
            return self.label == turn.otid
        return not turn.labelled and (self.began is None or self.began >= turn.since)


def as_stored(text: str) -> str:
    """A message's text as Letta keeps it: without NUL and halves of surrogate pairs."""
    return _NEVER_STORED.sub("", text)


def seconds(date: object) -> float | None:
    """An ISO time of Letta's as seconds since 1970; None where there is none. Without an offset it is UTC."""
    if not isinstance(date, str):
        return None
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class TurnSearch:
    """One search of an agent's history, page by page from the newest, for several turns.

    Args:
        sought: the turns.
        runs: the agent's runs that are active or cancelled, listed *before* the history is read. The other order would
            miss a turn that ends in between.
        now: seconds since 1970.
    """

    def __init__(self, sought: Sequence[SoughtTurn], runs: Sequence[Run], now: float) -> None:
        self._sought = sought
        self._runs = runs
        self._now = now
        self._window: list[Listed] = []
        self._complete = False
        self._found: dict[int, FoundTurn] = {}
        self._caught_up: set[int] = set()

    def read(self, page: Sequence[Listed]) -> bool:
        """Process the next older page, oldest message first; True if no older page is needed."""
        self._window = [*page, *self._window[:_MESSAGES_KEPT]]
        otids = {message.get("otid") for message in page}
        for index, turn in enumerate(self._sought):
            if not otids.isdisjoint(turn.copies):
                self._caught_up.add(index)
            place = None if index in self._found else _place(page, turn)
            if place is not None:
                self._found[index] = _stored(self._window, place, self._runs_of(turn))
        open_turns = [
            turn for index, turn in enumerate(self._sought) if index not in self._found.keys() | self._caught_up
        ]
        self._complete = not open_turns or _all_older(page, min(turn.since for turn in open_turns))
        return self._complete

    def at_the_beginning(self) -> None:
        """There is no older page."""
        self._complete = True

    def result(self) -> FoundTurns:
        """The result of the pages read so far."""
        turns = tuple(
            replace(self._found.get(index) or _unstored(self._runs_of(turn)), caught_up=index in self._caught_up)
            for index, turn in enumerate(self._sought)
        )
        at_work = [run for run in self._runs if run.active and not run.is_dead(self._now)]
        others = [run.run_id for run in at_work if not any(run.may_be_of(turn) for turn in self._sought)]
        return FoundTurns(turns, tuple(others), complete=self._complete)

    def _runs_of(self, turn: SoughtTurn) -> list[Run]:
        return [run for run in self._runs if run.may_be_of(turn)]


def _running(active: Sequence[Run], stored_by: str | None = None) -> FoundTurn:
    began = [run.began for run in active if run.began is not None]
    return FoundTurn(
        TurnState.RUNNING,
        run_ids=tuple(run.run_id for run in active),
        running_since=max(began) if len(began) == len(active) else None,
        run_id=stored_by,
    )


def _unstored(runs: Sequence[Run]) -> FoundTurn:
    if active := [run for run in runs if run.active]:
        return _running(active)
    return FoundTurn(TurnState.CANCELLED if any(run.cancelled for run in runs) else TurnState.ABSENT)


def _stored(messages: Sequence[Listed], place: int, runs: Sequence[Run]) -> FoundTurn:
    active = [run for run in runs if run.active]
    answer = answer_of(_rest_of_turn(messages, place), stop_reason=FOUND)
    run_id = messages[place].get("run_id")
    stored_by = run_id if isinstance(run_id, str) else None
    # A run stores step by step: text beside a tool call is not the answer while its run goes on.
    if any(run.run_id == stored_by for run in active) or (active and not answer.text):
        return _running(active, stored_by)
    return FoundTurn(TurnState.STORED, answer=answer if answer.text else None, run_id=stored_by)


def _all_older(messages: Sequence[Listed], since: float) -> bool:
    """Whether all of these messages are older than ``since``. One is not enough: a turn stored late has an old date."""
    dates = [seconds(message.get("date")) for message in messages]
    return all(date is not None and date < since for date in dates)


def _place(messages: Sequence[Listed], turn: SoughtTurn) -> int | None:
    """The position of the turn's newest message. An otid in the wrong place, or with another text, is another turn."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.get("otid") == turn.otid and (turn.content is None or _says(message, turn)):
            return index
    return None


def _says(message: Listed, turn: SoughtTurn) -> bool:
    date = seconds(message.get("date"))
    content = message.get("content")
    if not isinstance(content, str) or (date is not None and date < turn.since):
        return False
    return as_stored(content) == as_stored(turn.content or "")  # some of Letta's tables keep half a surrogate pair


def _rest_of_turn(messages: Sequence[Listed], place: int) -> list[Listed]:
    """The messages after the input: those of the same run or, without run ids, those up to the next user message."""
    run_id = messages[place].get("run_id")
    following = messages[place + 1 :]
    if isinstance(run_id, str):
        return [message for message in following if message.get("run_id") == run_id]
    end = next((i for i, m in enumerate(following) if m.get("message_type") == "user_message"), len(following))
    return list(following[:end])
