"""Checks the agents' histories: every turn once, in order, of the right user and persona, no private messages."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import redis

from bridge_chaos.conversation import Conversation
from bridge_chaos.letta_reader import LettaReader, Message
from bridge_chaos.load import DEFAULT_PERSONA, Utterance, recognised
from bridge_chaos.observer import is_answer, is_told_later
from bridge_chaos.promises.only_counted import Bounds, Exchange, only_counted
from bridge_chaos.promises.verdict import Verdict
from memory_service.settings import Sentences

_CANNED: Final = (Sentences().zh, Sentences().en)
"""What memory-python says where it has no answer: nobody's words."""


def waiting_to_be_told(client: redis.Redis) -> set[Utterance]:
    """The missed turns in Redis that agents have not received."""
    records: list[Any] = []
    for key in client.scan_iter(match="{*}:missed:*", count=1000):
        records += client.lrange(key, 0, -1)
    return {utterance for record in records for utterance in recognised(json.loads(record).get("content"))}


def judge_histories(
    verdict: Verdict,
    conversation: Conversation,
    reader: LettaReader,
    *,
    waiting: Collection[Utterance],
    bounds: Bounds,
) -> None:
    """Judge every user's agents.

    Args:
        verdict: where findings go.
        conversation: what was said and answered.
        reader: of Letta.
        waiting: what still waits to be told.
        bounds: of what agents are told word for word.
    """
    if conversation.private:
        verdict.checked.add("consent")
    for user in conversation.users:
        agents = {str(agent["id"]): agent for agent in reader.agents(["bridge", f"user:{user}"])}
        histories = {key: (_persona(agents[key]), reader.messages(key)) for key in agents}
        known = _judge_user(verdict, conversation, user, histories)
        _judge_memory(verdict, conversation, user, known, histories, waiting=waiting, bounds=bounds)


def _judge_user(
    verdict: Verdict, conversation: Conversation, user: str, agents: Mapping[str, tuple[str, Sequence[Message]]]
) -> Mapping[str, set[Utterance]]:
    """Check the content of each of the user's agents."""
    times_said: Counter[Utterance] = Counter()
    known: dict[str, set[Utterance]] = {}
    for agent_id, (persona, messages) in agents.items():
        said, noted = _read(verdict, conversation, user, persona, messages)
        times_said.update(said)
        known[agent_id] = {*said, *noted}
        if not conversation.in_order(said):
            numbers = [utterance.number for utterance in said]
            verdict.add("out_of_order", f"history of {user}, {persona}: {numbers}", user)
    for utterance, times in times_said.items():
        if times > 1:
            verdict.add("repeated_messages", f"{utterance.text!r} {times} times", utterance.task)
    return known


def _read(
    verdict: Verdict, conversation: Conversation, user: str, persona: str, messages: Sequence[Message]
) -> tuple[list[Utterance], list[Utterance]]:
    """The user's own messages in an agent, and those quoted in a note."""
    said: list[Utterance] = []
    noted: list[Utterance] = []
    for message in messages:
        text, kind = str(message.get("content")), message.get("message_type")
        if any(sentence in text for sentence in _CANNED):
            verdict.add("strangers", f"the agent of {user} was told memory-python's plain sentence", user)
        for utterance in recognised(text):
            task = utterance.task
            if utterance.user != user or utterance.persona != persona:
                verdict.add("strangers", f"{text!r} in the agent of {user}, {persona}", user)
            elif kind == "user_message" and not text.startswith("{"):
                said.append(utterance)
            elif kind != "assistant_message":
                noted.append(utterance)
            if task in conversation.private and task not in conversation.unsure:
                verdict.add("consent", f"{text!r} was said in private and stands in an agent", task)
    return said, noted


def _judge_memory(
    verdict: Verdict,
    conversation: Conversation,
    user: str,
    known: Mapping[str, set[Utterance]],
    histories: Mapping[str, tuple[str, Sequence[Message]]],
    *,
    waiting: Collection[Utterance],
    bounds: Bounds,
) -> None:
    """Check that the user's present agent contains every answered message."""
    answered: dict[str, list[Exchange]] = defaultdict(list)
    now: dict[str, str] = {}
    for task in dict.fromkeys(conversation.observer.order[user]):
        utterance = conversation.utterances.get(task)
        reply = conversation.observer.last(task)
        if utterance is None or not is_answer(reply) or task in conversation.private | conversation.unsure:
            continue
        texts = (conversation.prefix_of(task), utterance.text, str(reply.get("response_text")))
        answered[utterance.persona].append(Exchange(utterance, sum(map(len, texts)), reply))
        if reply.get("agent_id"):
            now[utterance.persona] = str(reply["agent_id"])
    for persona, exchanges in answered.items():
        agent_id = now.get(persona, "")
        _, history = histories.get(agent_id, (persona, ()))
        counted = only_counted(history, exchanges, bounds)
        for exchange in exchanges:
            utterance, reply = exchange.utterance, exchange.reply
            if utterance in known.get(agent_id, ()):
                continue
            if user in conversation.opted_out and is_told_later(reply):
                continue  # the agent is told when the user switches memory on again
            promise = "left_out" if utterance in counted else "untold" if utterance in waiting else "forgotten"
            by = f"{reply.get('source')}, {reply.get('fallback_reason') or 'no fallback'}"
            verdict.add(promise, f"{utterance.text} (answered by {by})", utterance.task)


def _persona(agent: Mapping[str, Any]) -> str:
    tags = [str(tag) for tag in agent.get("tags") or ()]
    return next((tag.removeprefix("persona:") for tag in tags if tag.startswith("persona:")), DEFAULT_PERSONA)
