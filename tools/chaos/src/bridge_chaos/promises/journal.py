"""Checks the journal in the database: every answered turn exactly once, in order, no private messages."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import psycopg
import redis

from bridge_chaos.conversation import Conversation
from bridge_chaos.environment import QUEUE, Environment
from bridge_chaos.load import Task, Utterance
from bridge_chaos.observer import is_answer
from bridge_chaos.promises.verdict import Verdict
from bridge_chaos.waiting import wait_until

_WRITTEN_SECONDS: Final = 60.0
"""What the journal may take to reach the database when all is well again."""
_MESSAGES: Final = (
    "SELECT c.user_id, m.metadata->>'task_id' AS task_id FROM letta_bridge.agent_messages m "
    "JOIN letta_bridge.agent_conversations c ON c.id = m.conversation_id "
    "WHERE m.role = 'user' AND c.user_id = ANY(%s) ORDER BY c.user_id, c.id, m.ordinal"
)


def judge_journal(verdict: Verdict, environment: Environment, conversation: Conversation) -> None:
    """Compare the database with the answered tasks."""
    with environment.client() as client:
        if not wait_until(lambda: _is_written(client, environment), _WRITTEN_SECONDS, pause=0.1):
            waiting = client.xlen(f"{{{QUEUE}}}:journal")
            verdict.add("journal", f"{waiting} turns wait for the database in vain")
    with psycopg.connect(environment.postgres.url(environment.database), autocommit=True) as connection:
        rows = connection.execute(_MESSAGES, (conversation.users,)).fetchall()
    written = Counter(Task(user, str(task_id)) for user, task_id in rows)
    private = conversation.private - conversation.unsure
    for task in written.keys() & private:
        verdict.add("consent", f"{task} was said in private and stands in the journal", task)
    for task in conversation.utterances:
        due = any(is_answer(reply) for reply in conversation.observer.replies.get(task, ()))
        if due and task not in written and task not in conversation.private | conversation.unsure:
            verdict.add("journal", f"{task} is missing", task)
        if written[task] > 1:
            verdict.add("journal", f"{task} is there {written[task]} times", task)
    for (user, persona), said in _kept(conversation, rows).items():
        if not conversation.in_order(said):
            numbers = [utterance.number for utterance in said]
            verdict.add("out_of_order", f"journal of {user}, {persona}: {numbers}", user)


def _kept(conversation: Conversation, rows: list[Any]) -> dict[tuple[str, str], list[Utterance]]:
    """User and persona → messages in the database, in the order of their conversation."""
    found: dict[tuple[str, str], list[Utterance]] = {}
    for user, task_id in rows:
        utterance = conversation.utterances.get(Task(user, str(task_id)))
        if utterance is not None:
            found.setdefault((user, utterance.persona), []).append(utterance)
    return found


def _is_written(client: redis.Redis, environment: Environment) -> bool:
    if not client.xlen(f"{{{QUEUE}}}:journal"):
        return True
    key = f"{{{QUEUE}}}:journal_writer"
    writer: Any = client.get(key)
    # A killed writer keeps its place for half a minute; a run does not wait for that.
    if writer and not any(f"-{bridge.pid}-" in writer.decode() for bridge in environment.bridges if bridge.running):
        client.delete(key)
    return False
