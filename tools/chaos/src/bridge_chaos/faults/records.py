"""Unreadable records in Redis: damaged ones, and those of a later release after a rollback."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bridge_chaos.command_line import command
from bridge_chaos.environment import QUEUE
from bridge_chaos.fault import Fault, FaultContext, parts
from bridge_chaos.promises.replies import described
from bridge_chaos.speaker import Speaker
from bridge_chaos.waiting import wait_until

_DAMAGED: Final = b"\x00\xff damaged"
_LATER_VERSION: Final = 9
_TASK: Final = b'{"task_id": "later"}'
_LATER_ENTRY: Final = b"v%d 1 1 1\n%s" % (_LATER_VERSION, _TASK)
_LATER_JSON: Final = b'{"v": %d, "words": []}' % _LATER_VERSION
_LATER_LETTER: Final = _LATER_JSON + b"\n" + _TASK
_NEEDS: Final = parts("redis", "letta")
_USERS: Final = 3
_RETRIED_SECONDS: Final = 2.0
_SET_ASIDE_SECONDS: Final = 20.0
_READ_COMMANDS: Final = (
    ("dead", "list"),
    ("dead", "list", "--json"),
    ("status",),
    ("doctor",),
    ("dead", "retry", "--all"),
)

_Write = Callable[[Any, str, bytes], None]
"""Puts an unreadable record of a user where the bridges find it."""


@dataclass(frozen=True)
class _Place:
    """The place of a record in Redis, and the form in which a later release would write it there."""

    name: str
    where: str
    write: _Write
    later: bytes | None
    """Of a later release; None where records have no version, because a later release may only add to them."""
    needs: frozenset[str] = frozenset()
    becomes: Callable[[bytes], bytes] | None = bytes
    """Record → body of the dead letter it becomes; None where it stays, and is passed over."""


def faults() -> list[Fault]:
    """All of them."""
    places = [
        _Place("turn", "among the turns in flight", _as_turn, b"chaos v%d\nlater\n%s" % (_LATER_VERSION, _TASK)),
        _Place("lane", "in a user's lane", _in_lane, _LATER_ENTRY),
        _Place("missed", "among an agent's missed turns", _as_missed, _LATER_JSON, becomes=None),
        _Place("reply", "as a kept reply", _as_reply, None, becomes=None),
        _Place("journal", "in the journal's stream", _in_journal, _LATER_JSON, parts("postgres"), _turn_and_reply),
    ]
    found = []
    for kind, what in (("damaged", "a damaged record"), ("later", "a record of a later release")):
        for place in places:
            record = _DAMAGED if kind == "damaged" else place.later
            if record is not None:
                found.append(
                    Fault(
                        f"records/{kind}-{place.name}",
                        f"{what} is {place.where}; its users are still served",
                        _served(place, record),
                        needs=_NEEDS | place.needs | parts("operator"),
                    )
                )
        found.append(
            Fault(
                f"records/{kind}-dead",
                f"{what} is among the dead letters; an operator lists, shows and retries them",
                _looked_through(_DAMAGED if kind == "damaged" else _LATER_LETTER),
                needs=_NEEDS | parts("operator"),
            )
        )
    return found


def _served(place: _Place, record: bytes) -> Callable[[FaultContext], None]:
    def act(context: FaultContext) -> None:
        speakers = [Speaker(context, f"record{number}") for number in range(_USERS)]
        for speaker in speakers:
            speaker.ask("Hello.", "0")
        context.strike()
        with context.environment.client() as client:
            for speaker in speakers:
                place.write(client, speaker.user, record)
        for speaker in speakers:
            reply = speaker.ask("Are you there?", "1")
            text = f"{speaker.user} is not served any more: {dict(reply)}"
            context.check("lost", reply.get("source") == "letta", text, speaker.user)
        if place.becomes is not None:
            code = "unreadable_record" if record is _DAMAGED else "newer_record"
            _set_aside(context, place.becomes(record), code)
        elif place.name == "missed":
            _still_missed(context, speakers, record)

    return act


def _looked_through(record: bytes) -> Callable[[FaultContext], None]:
    """Commands over dead letters skip one that cannot be read, and keep it."""

    def act(context: FaultContext) -> None:
        context.strike()
        with context.environment.client() as client:
            client.lpush(f"{{{QUEUE}}}:dead", record)
            for words in _READ_COMMANDS:
                command(context, *words)
            context.let_pass(_RETRIED_SECONDS)
            kept = client.lrem(f"{{{QUEUE}}}:dead", 0, record)
            context.check("lost", kept == 1, f"the unreadable dead letter is there {kept} times after 'dead retry'")

    return act


def _still_missed(context: FaultContext, speakers: Sequence[Speaker], record: bytes) -> None:
    """The record stays, because only a release that can read it can send it to the agent."""
    with context.environment.client() as client:
        for speaker in speakers:
            kept = client.lrem(f"{{{QUEUE}}}:missed:{speaker.user}", 0, record)
            client.hincrby(f"{{{QUEUE}}}:counters", "missed_pending", -int(kept))
            context.check("lost", kept == 1, f"{speaker.user}: the missed turn is there {kept} times", speaker.user)


def _turn_and_reply(record: bytes) -> bytes:
    return record + b"\n" + record


def _set_aside(context: FaultContext, record: bytes, code: str) -> None:
    """Each record becomes a dead letter with its reason, byte for byte; the letters are expected, and removed again."""
    with context.environment.client() as client:

        def letters() -> list[bytes]:
            found: Any = client.lrange(f"{{{QUEUE}}}:dead", 0, -1)
            return [letter for letter in found if letter.partition(b"\n")[2] == record]

        wait_until(lambda: len(letters()) >= _USERS, _SET_ASIDE_SECONDS, pause=0.1)
        found = letters()
        context.check("lost", len(found) == _USERS, f"{len(found)} of {_USERS} unreadable records were set aside")
        for letter in found:
            about = described(letter)
            context.remarks.append(f"set aside: {about.get('code')}: {about.get('reason')}")
            context.check("unclear", about.get("code") == code, f"set aside as {about.get('code')}, not {code}")
            context.check("unclear", bool(about.get("reason")), f"set aside without a reason: {letter[:60]!r}")
            client.lrem(f"{{{QUEUE}}}:dead", 1, letter)


def _as_turn(client: Any, user: str, record: bytes) -> None:
    """In flight with an expired lease, so that the next dispatch hands it out again."""
    receipt = f"chaos-{user}"
    client.hset(f"{{{QUEUE}}}:turns", receipt, record)
    client.hset(f"{{{QUEUE}}}:lanes", user, receipt)
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
    del user  # the journal is one stream for all users
    client.xadd(f"{{{QUEUE}}}:journal", {"turn": record, "reply": record})
