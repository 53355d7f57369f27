"""Records in Redis that nobody can read: damaged ones, and such of a later release that was rolled back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from bridge_chaos.command_line import command
from bridge_chaos.environment import QUEUE, Environment
from bridge_chaos.fault import Fault, FaultContext, parts
from bridge_chaos.load import Task
from bridge_chaos.promises.replies import described
from bridge_chaos.speaker import Speaker
from bridge_chaos.topology import Topology

_DAMAGED: Final = b"\x00\xff damaged"
_LATER: Final = b"99\nof a later release\n{}"
_NEEDS: Final = parts("redis", "letta")
_USERS: Final = 3
_RETRIED_SECONDS: Final = 2.0
_LOOKS: Final = (("dead", "list"), ("dead", "list", "--json"), ("status",), ("doctor",), ("dead", "retry", "--all"))

_Write = Callable[[Any, str, bytes], None]
"""Puts an unreadable record of a user where the bridges find it."""


def faults() -> list[Fault]:
    """All of them."""
    places: list[tuple[str, str, _Write]] = [
        ("turn", "among the turns in flight", _as_turn),
        ("lane", "in a user's lane", _in_lane),
        ("missed", "among what an agent has missed", _as_missed),
        ("reply", "as a kept reply", _as_reply),
    ]
    kinds = (("damaged", "a damaged record", _DAMAGED), ("later", "a record of a later release", _LATER))
    found = [
        Fault(
            f"records/{kind}-{name}",
            f"{what} stands {where}; its users are served all the same",
            _served(write, record),
            needs=_NEEDS | parts("operator"),
        )
        for name, where, write in places
        for kind, what, record in kinds
    ]
    found += [
        Fault(
            f"records/{kind}-dead",
            f"{what} stands among the dead letters; an operator looks through them",
            _looked_through(record),
            needs=_NEEDS | parts("operator"),
        )
        for kind, what, record in kinds
    ]
    found.append(
        Fault(
            "records/damaged-journal",
            "a damaged turn stands in the journal's stream",
            _served(_in_journal, _DAMAGED),
            topology=Topology(),
            needs=_NEEDS | parts("postgres", "operator"),
        )
    )
    return found


def _served(write: _Write, record: bytes) -> Callable[[FaultContext], None]:
    def act(context: FaultContext) -> None:
        speakers = [Speaker(context, f"record{number}") for number in range(_USERS)]
        for speaker in speakers:
            speaker.ask("Hello.", "0")
        context.strike()
        with context.environment.client() as client:
            for speaker in speakers:
                write(client, speaker.user, record)
        for speaker in speakers:
            reply = speaker.ask("Are you there?", "1")
            text = f"{speaker.user} is not served any more: {dict(reply)}"
            context.check("lost", reply.get("source") == "letta", text, speaker.user)
        _set_aside(context, context.environment, {speaker.user for speaker in speakers})

    return act


def _looked_through(record: bytes) -> Callable[[FaultContext], None]:
    """Commands over dead letters go on past one that cannot be read."""

    def act(context: FaultContext) -> None:
        context.strike()
        with context.environment.client() as client:
            client.lpush(f"{{{QUEUE}}}:dead", record)
            for words in _LOOKS:
                command(context, *words)
            context.let_pass(_RETRIED_SECONDS)
            client.delete(f"{{{QUEUE}}}:dead")

    return act


def _set_aside(context: FaultContext, environment: Environment, users: set[str]) -> None:
    """The unreadable records become dead letters with a reason: expected, and taken away again."""
    with environment.client() as client:
        for letter in client.lrange(f"{{{QUEUE}}}:dead", 0, -1):
            about = described(letter)
            user = str(about.get("user_id"))
            if user in users or not about.get("task_id"):
                context.remarks.append(f"set aside: {about.get('code')}: {about.get('reason')}")
                context.expect("buried", [Task(user, str(about.get("task_id")))])
                context.check("unclear", bool(about.get("reason")), f"set aside without a reason: {letter[:60]!r}")
                client.lrem(f"{{{QUEUE}}}:dead", 1, letter)


def _as_turn(client: Any, user: str, record: bytes) -> None:
    """In flight, its lease over: the next dispatch wants to hand it out again."""
    receipt = f"chaos-{user}"
    client.hset(f"{{{QUEUE}}}:turns", receipt, record)
    client.zadd(f"{{{QUEUE}}}:leases", {receipt: time.time() * 1000 - 1})
    client.hincrby(f"{{{QUEUE}}}:counters", "taken", 1)


def _in_lane(client: Any, user: str, record: bytes) -> None:
    client.rpush(f"{{{QUEUE}}}:lane:{user}", record)
    client.rpush(f"{{{QUEUE}}}:ready", user)
    client.hincrby(f"{{{QUEUE}}}:counters", "taken", 1)


def _as_missed(client: Any, user: str, record: bytes) -> None:
    client.rpush(f"{{{QUEUE}}}:missed:{user}", record)
    client.hincrby(f"{{{QUEUE}}}:counters", "missed_pending", 1)


def _as_reply(client: Any, user: str, record: bytes) -> None:
    client.set(f"{{{QUEUE}}}:reply:{user}:1", record, ex=600)


def _in_journal(client: Any, user: str, record: bytes) -> None:
    client.xadd(f"{{{QUEUE}}}:journal", {"turn": record + user.encode(), "reply": record})
