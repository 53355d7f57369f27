"""Checks that each task has one outcome, its own, in the user's order, and that errors say what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import redis

from bridge_chaos.conversation import Conversation
from bridge_chaos.environment import QUEUE
from bridge_chaos.load import Task, Utterance, recognised
from bridge_chaos.observer import Reply, is_answer
from bridge_chaos.promises.verdict import Verdict

_AT_THE_DOOR: Final = frozenset({"user_queue_full"})
"""Codes of refusals that do not wait for the user's earlier tasks."""


def dead_letters(client: redis.Redis) -> dict[Task, str]:
    """The task of each dead letter, and its reason."""
    letters: Any = client.lrange(f"{{{QUEUE}}}:dead", 0, -1)
    found = {}
    for letter in letters:
        about = described(letter)
        found[Task(str(about.get("user_id")), str(about.get("task_id")))] = str(about.get("reason"))
    return found


def described(letter: bytes) -> Mapping[str, Any]:
    """The description in a dead letter: code, reason, user_id, task_id; empty if it cannot be read."""
    try:
        about = json.loads(letter.partition(b"\n")[0])
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def judge_replies(verdict: Verdict, conversation: Conversation, dead: Mapping[Task, str], *, echoes: bool) -> None:
    """Find lost, buried, repeated and misdirected replies. `echoes`: Letta's answers repeat the message."""
    for task, reason in dead.items():
        verdict.add("buried", f"{task}: {reason}", task)
    observer = conversation.observer
    for text in observer.unreadable:
        verdict.add("unclear", f"what was given out as a reply is none: {text[:60]!r}")
    for task, utterance in conversation.utterances.items():
        replies = observer.replies.get(task, [])
        if task in dead:
            verdict.sources["dead"] += 1
        elif not replies:
            verdict.add("lost", str(task), task)
        else:
            verdict.sources[str(replies[-1].get("source"))] += 1
        for reply in replies:
            _judge_reply(verdict, utterance, reply, echoes=echoes)
        # A push that was repeated is answered again on the channel, by the reply that was kept.
        published = len(observer.published[task]) - conversation.pushes[task] + 1
        answers = sum(is_answer(reply) for reply in replies)
        if max(answers, published) > 1:
            verdict.add("repeated_replies", f"{task}: {answers} answers, {published} times published", task)
    for user in conversation.users:
        served = [task for task in dict.fromkeys(observer.order[user]) if task in conversation.utterances]
        said = [conversation.utterances[task] for task in served if observer.last(task).get("code") not in _AT_THE_DOOR]
        if not conversation.in_order(said):
            verdict.add("out_of_order", f"replies of {user}: {[utterance.number for utterance in said]}", user)


def _judge_reply(verdict: Verdict, utterance: Utterance, reply: Reply, *, echoes: bool) -> None:
    task = utterance.task
    if reply.get("error"):
        verdict.checked.add("unclear")
        if not reply.get("code") or reply.get("code") == "internal" or not reply.get("message"):
            verdict.add("unclear", f"{task} was refused with code {reply.get('code')}: {reply.get('message')}", task)
        return
    for said in recognised(reply.get("response_text")):
        if said != utterance and (echoes or said.user != task.user):
            verdict.add("strangers", f"{task} was answered with {said.text!r}", task)
