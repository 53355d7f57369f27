"""What stands in the agents: everything once, in order, of the right user and persona, and nothing said in private."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bridge_chaos.conversation import Conversation
from bridge_chaos.letta_reader import LettaReader, Message
from bridge_chaos.load import DEFAULT_PERSONA, Utterance, recognised
from bridge_chaos.observer import Reply, is_answer
from bridge_chaos.promises.verdict import Verdict
from memory_service.settings import Sentences

_CANNED: Final = (Sentences().zh, Sentences().en)
"""What memory-python says where it has no answer: nobody's words."""


def judge_histories(verdict: Verdict, conversation: Conversation, reader: LettaReader) -> None:
    """Judge every user's agents."""
    if conversation.private:
        verdict.checked.add("consent")
    for user in conversation.users:
        agents = {str(agent["id"]): agent for agent in reader.agents(["bridge", f"user:{user}"])}
        _judge_user(verdict, conversation, user, {key: (_persona(agents[key]), reader.messages(key)) for key in agents})


def _judge_user(
    verdict: Verdict, conversation: Conversation, user: str, agents: Mapping[str, tuple[str, Iterable[Message]]]
) -> None:
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
    _judge_memory(verdict, conversation, user, known)


def _read(
    verdict: Verdict, conversation: Conversation, user: str, persona: str, messages: Iterable[Message]
) -> tuple[list[Utterance], list[Utterance]]:
    """What stands in an agent as the user's own words, and what in a note."""
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


def _judge_memory(verdict: Verdict, conversation: Conversation, user: str, known: Mapping[str, set[Utterance]]) -> None:
    """Every answered message must be known to the agent that answers the user now."""
    answered: dict[str, list[tuple[Utterance, Reply]]] = defaultdict(list)
    now: dict[str, str] = {}
    for task in dict.fromkeys(conversation.observer.order[user]):
        utterance = conversation.utterances.get(task)
        reply = conversation.observer.last(task)
        if utterance is None or not is_answer(reply):
            continue
        answered[utterance.persona].append((utterance, reply))
        if reply.get("agent_id"):
            now[utterance.persona] = str(reply["agent_id"])
    for persona, utterances in answered.items():
        memory = known.get(now.get(persona, ""), set())
        for utterance, reply in utterances:
            if utterance in memory or utterance.task in conversation.private | conversation.unsure:
                continue
            if user in conversation.opted_out and reply.get("source") != "letta":
                continue  # the agent is told when the user switches memory on again
            by = f"{reply.get('source')}, {reply.get('fallback_reason') or 'no fallback'}"
            verdict.add("forgotten", f"{utterance.text} (answered by {by})", utterance.task)


def _persona(agent: Mapping[str, Any]) -> str:
    tags = [str(tag) for tag in agent.get("tags") or ()]
    return next((tag.removeprefix("persona:") for tag in tags if tag.startswith("persona:")), DEFAULT_PERSONA)
