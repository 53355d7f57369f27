"""What must hold at the end of a run, seen from outside and counted."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
import redis

from bridge_chaos.load import QUEUE, Conversation, number_of, text_of
from bridge_chaos.rig import Rig, wait_until
from letta_bridge.letta.letta_client import LettaClient

_WRITTEN: Final = 30.0
"""Seconds the journal may take to reach the database when all is well again."""
_AT_REST: Final = 10.0
"""Seconds the queue may take to come to rest after the last reply."""
_LONGEST: Final = 50_000
_MESSAGES: Final = (
    "SELECT c.user_id, m.metadata->>'task_id' AS task_id FROM letta_bridge.agent_messages m "
    "JOIN letta_bridge.agent_conversations c ON c.id = m.conversation_id "
    "WHERE m.role = 'user' AND c.user_id = ANY(%s) ORDER BY c.user_id, m.ordinal"
)
_SAID: Final = re.compile(r"第(\d+)句 from ([^.]+)\.")


@dataclass
class Verdict:
    """Broken promises, each as a list of where; and how the tasks ended."""

    tasks: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    """How replies ended: letta, memory-python, letta_bridge (an error), dead."""
    lost: list[str] = field(default_factory=list)
    """Tasks without any outcome."""
    buried: list[str] = field(default_factory=list)
    """Dead letters: every task of a run is a good one, so none should be."""
    repeated_replies: list[str] = field(default_factory=list)
    repeated_messages: list[str] = field(default_factory=list)
    """What stands in a user's agents more than once."""
    out_of_order: list[str] = field(default_factory=list)
    """Users whose replies, messages or journal are not in the order they spoke."""
    forgotten: list[str] = field(default_factory=list)
    """Answered, and in no agent at the end."""
    strangers: list[str] = field(default_factory=list)
    """Messages in somebody else's agent, and answers meant for somebody else."""
    overlaps: int = 0
    """Turns of one agent at the same time in Letta."""
    accounts: list[str] = field(default_factory=list)
    """Counters and keys that do not add up."""
    journal: list[str] = field(default_factory=list)
    """Answered, and not exactly once in the database."""

    @property
    def broken(self) -> dict[str, int]:
        """Promise → how often it was broken, where it was."""
        counts = {name: _count(getattr(self, name)) for name in BROKEN}
        return {name: count for name, count in counts.items() if count}


BROKEN: Final = (
    "lost", "buried", "repeated_replies", "repeated_messages", "out_of_order", "forgotten", "strangers", "overlaps",
    "accounts", "journal",
)  # fmt: skip


async def judge(rig: Rig, conversation: Conversation) -> Verdict:
    """Everything that can be seen from outside, once all is quiet."""
    verdict = Verdict(tasks=len(conversation.pushed_at))
    with rig.client() as client:
        letters = _dead(client)
        dead = {str(letter.get("task_id")) for letter in letters}
        verdict.buried = [f"{letter.get('task_id')}: {letter.get('reason')}" for letter in letters]
        verdict.accounts = _accounts(client)
    _replies(verdict, conversation, dead)
    await _histories(verdict, rig, conversation)
    if rig.shape.database:
        _journal(verdict, rig, conversation)
    if rig.letta:
        verdict.overlaps = sum(double.seen()["overlaps"] for double in rig.letta)
    return verdict


def _replies(verdict: Verdict, conversation: Conversation, dead: set[str]) -> None:
    for task_id in conversation.pushed_at:
        replies = conversation.replies.get(task_id, [])
        if not replies:
            verdict.lost += [] if task_id in dead else [task_id]
            verdict.sources["dead"] += task_id in dead
            continue
        verdict.sources["dead" if task_id in dead else str(replies[-1].get("source"))] += 1
        heard = _SAID.findall(str(replies[-1].get("response_text")))
        verdict.strangers += [f"{task_id} was answered with {said}" for said in heard if said[1] != _user_of(task_id)]
        # A push that was repeated is answered again on the channel, by the reply that was kept.
        published = conversation.heard[task_id] - conversation.pushed[task_id] + 1
        if max(len(replies), published) > 1:
            verdict.repeated_replies.append(task_id)
    for user in conversation.users:
        numbers = [number_of(task_id) for task_id in dict.fromkeys(conversation.order[user])]
        if numbers != sorted(numbers):
            verdict.out_of_order.append(f"replies of {user}: {numbers}")


async def _histories(verdict: Verdict, rig: Rig, conversation: Conversation) -> None:
    letta = LettaClient(rig.letta_url, api_key=rig.letta_key)
    try:
        for user in conversation.users:
            agents = await letta.find_agents(["bridge", f"user:{user}"])
            entries = [entry for agent in agents for entry in await letta.history(agent.agent_id, limit=_LONGEST)]
            _history(verdict, conversation, user, entries)
    finally:
        await letta.close()


def _history(verdict: Verdict, conversation: Conversation, user: str, entries: Iterable[Mapping[str, object]]) -> None:
    said: list[int] = []
    noted: set[int] = set()
    for entry in entries:
        text = str(entry.get("content"))
        for number, speaker in _SAID.findall(text):
            if speaker != user:
                verdict.strangers.append(f"{text!r} in the agent of {user}")
            elif entry.get("message_type") == "user_message" and not text.startswith("{"):
                said.append(int(number))
            elif entry.get("message_type") != "assistant_message":
                noted.add(int(number))
    verdict.repeated_messages += [text_of(user, number) for number, count in Counter(said).items() if count > 1]
    if sorted(said) != said:
        verdict.out_of_order.append(f"history of {user}: {said}")
    answered = [number_of(task_id) for task_id in conversation.order[user] if _is_answer(conversation, task_id)]
    verdict.forgotten += [text_of(user, number) for number in sorted({*answered} - {*said} - noted)]


def _journal(verdict: Verdict, rig: Rig, conversation: Conversation) -> None:
    with rig.client() as client:
        if not wait_until(lambda: _journal_written(client, rig), _WRITTEN, pause=0.1):
            verdict.journal.append(f"{client.xlen(f'{{{QUEUE}}}:journal')} turns wait for the database in vain")
    with psycopg.connect(rig.postgres.url(rig.database), autocommit=True) as connection:
        rows = connection.execute(_MESSAGES, (conversation.users,)).fetchall()
    written = Counter(str(task_id) for _, task_id in rows)
    expected = {task_id for task_id in conversation.pushed_at if _is_answer(conversation, task_id)}
    verdict.journal += [f"{task_id} is missing" for task_id in sorted(expected - written.keys())]
    verdict.journal += [f"{task_id} is there {count} times" for task_id, count in written.items() if count > 1]
    for user in conversation.users:
        numbers = [number_of(str(task_id)) for speaker, task_id in rows if speaker == user]
        if numbers != sorted(numbers):
            verdict.out_of_order.append(f"journal of {user}: {numbers}")


def _journal_written(client: redis.Redis, rig: Rig) -> bool:
    if not client.xlen(f"{{{QUEUE}}}:journal"):
        return True
    key = f"{{{QUEUE}}}:journal_writer"
    writer: Any = client.get(key)
    # A killed writer keeps its place for half a minute; a run does not wait for that.
    if writer and not any(f"-{bridge.pid}-" in writer.decode() for bridge in rig.bridges if bridge.running):
        client.delete(key)
    return False


def _is_answer(conversation: Conversation, task_id: str) -> bool:
    return any(reply.get("source") in {"letta", "memory-python"} for reply in conversation.replies.get(task_id, []))


def _accounts(client: redis.Redis) -> list[str]:
    """What does not add up, once the queue had its time to come to rest."""
    problems: list[str] = []

    def balanced() -> bool:
        problems[:] = _imbalances(client)
        return not problems

    wait_until(balanced, _AT_REST, pause=0.1)
    return problems


def _imbalances(client: redis.Redis) -> list[str]:
    key = f"{{{QUEUE}}}:"
    raw: Any = client.hgetall(f"{key}counters")
    counters = {name.decode(): int(count) for name, count in raw.items()}
    settled = sum(count for name, count in counters.items() if name.startswith("settled:"))
    problems = []
    if counters.get("taken", 0) != settled:
        problems.append(f"taken {counters.get('taken', 0)}, settled {settled}")
    if counters.get("missed_pending", 0):
        problems.append(f"missed_pending is {counters['missed_pending']}")
    sizes: Sequence[tuple[str, Any]] = [
        (QUEUE, client.llen(QUEUE)),
        *((name, client.llen(f"{key}{name}")) for name in ("incoming", "ready")),
        *((name, client.hlen(f"{key}{name}")) for name in ("lanes", "turns")),
        ("leases", client.zcard(f"{key}leases")),
    ]
    problems += [f"{name} has {size} left" for name, size in sizes if size]
    problems += [f"{name.decode()} is left" for name in client.scan_iter(match="{*}:lane:*", count=1000)]
    return problems


def _dead(client: redis.Redis) -> list[Mapping[str, Any]]:
    letters: Any = client.lrange(f"{{{QUEUE}}}:dead", 0, -1)
    return [json.loads(letter.partition(b"\n")[0]) for letter in letters]


def _user_of(task_id: str) -> str:
    return task_id.rpartition("-")[0]


def _count(value: int | Sequence[str]) -> int:
    return value if isinstance(value, int) else len(value)
