"""Missed turns of which an agent received only the number, because they exceed the limits of catch-up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from bridge_chaos.environment import Environment
from bridge_chaos.letta_reader import Message
from bridge_chaos.load import Utterance, recognised
from bridge_chaos.observer import Reply, is_told_later
from local_stack.programs import CONFIG

_COUNT: Final = re.compile(
    r"answered (\d+) earlier messages that are not shown|短期记忆还回答了用户更早的 (\d+) 条消息"
)
"""The note of a bridge that tells a number, in either language."""
_NOTE: Final = "system_message"
_VARIABLE: Final = "LETTA_BRIDGE_FALLBACK_"


@dataclass(frozen=True)
class Bounds:
    """How much of what an agent missed is told word for word."""

    turns: int
    characters: int

    @classmethod
    def of(cls, environment: Environment) -> Self:
        """Those of an environment's bridges."""
        fallback = json.loads(CONFIG.read_text(encoding="utf-8"))["fallback"]
        variables = dict(environment.topology.variables)
        names = ("catch_up_max_turns", "catch_up_max_characters")
        return cls(*(int(variables.get(f"{_VARIABLE}{name.upper()}", fallback[name])) for name in names))


@dataclass(frozen=True)
class Exchange:
    """What a user said to a persona, and the answer."""

    utterance: Utterance
    characters: int
    """Of both texts."""
    reply: Reply


def only_counted(messages: Sequence[Message], exchanges: Sequence[Exchange], bounds: Bounds) -> set[Utterance]:
    """What an agent knows by number alone, by its own history.

    A note that names a number counts for exactly so many turns: those right before the newest ones that the bounds let
    through, among all that memory-python answered since the agent's turn before. Where the bounds would have let all of
    them through, a note counts for none.

    Args:
        messages: the agent's whole history, oldest first.
        exchanges: what was said to its persona, in the order it was answered.
        bounds: of the bridges.
    """
    places = {exchange.utterance: place for place, exchange in enumerate(exchanges)}
    turns = {str(message.get("run_id")): said for message, said in _said(messages) if said in places}
    own = {places[said] for said in turns.values()}
    found: set[Utterance] = set()
    for message in messages:
        count = _COUNT.search(str(message.get("content"))) if message.get("message_type") == _NOTE else None
        turn = turns.get(str(message.get("run_id")))
        if count is None or turn is None:
            continue
        end = places[turn]
        begin = max((place for place in own if place < end), default=-1) + 1
        missed = [each for each in exchanges[begin:end] if is_told_later(each.reply)]
        told = _told(missed, bounds)
        left_out = missed[: len(missed) - told]
        found.update(each.utterance for each in left_out[-int(count[1] or count[2]) :])
    return found


def _said(messages: Sequence[Message]) -> Iterator[tuple[Message, Utterance]]:
    """The user's messages in a run; the last one is the turn itself, the earlier ones are catch-up."""
    for message in messages:
        if message.get("message_type") == "user_message" and not str(message.get("content")).startswith("{"):
            for utterance in recognised(message.get("content")):
                yield message, utterance


def _told(missed: Sequence[Exchange], bounds: Bounds) -> int:
    """How many of the newest missed turns the limits allow."""
    characters = 0
    for number, exchange in enumerate(reversed(missed)):
        characters += exchange.characters
        if number == bounds.turns or (number and characters > bounds.characters):
            return number
    return len(missed)
