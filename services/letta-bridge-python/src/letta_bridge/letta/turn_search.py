"""Finding a turn in an agent's history: what Letta lists, and what that says about one otid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from letta_bridge.letta.answer import FOUND, answer_of
from letta_bridge.letta.port import FoundTurn, TurnState

Listed = Mapping[str, object]
"""One message as Letta lists it: ``message_type``, ``otid``, ``run_id``, ``content`` and more."""


def fate(messages: Sequence[Listed], otid: str, active_runs: Sequence[str]) -> FoundTurn:
    """What became of a turn.

    Args:
        messages: the agent's history, oldest first, as far back as it was read.
        otid: of the turn's last input message. Nothing else identifies a turn: Letta lists system messages and events
            of its own among the users'.
        active_runs: runs of the agent that were active *before* the history was read. The other order would miss a turn
            that ends in between.
    """
    place = next((i for i, message in enumerate(messages) if message.get("otid") == otid), None)
    if place is None:
        return FoundTurn(TurnState.RUNNING if active_runs else TurnState.ABSENT, run_ids=tuple(active_runs))
    answer = answer_of(_rest_of_turn(messages, place), stop_reason=FOUND)
    # A run stores step by step: text beside a tool call is not the answer while its run goes on.
    if messages[place].get("run_id") in active_runs or (active_runs and not answer.text):
        return FoundTurn(TurnState.RUNNING, run_ids=tuple(active_runs))
    return FoundTurn(TurnState.STORED, answer=answer if answer.text else None)


def _rest_of_turn(messages: Sequence[Listed], place: int) -> list[Listed]:
    """What followed the input: the messages of the same run, or those up to the next user message without run ids."""
    run_id = messages[place].get("run_id")
    following = messages[place + 1 :]
    if isinstance(run_id, str):
        return [message for message in following if message.get("run_id") == run_id]
    end = next((i for i, m in enumerate(following) if m.get("message_type") == "user_message"), len(following))
    return list(following[:end])
