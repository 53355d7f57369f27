"""Finds, reads and removes one user's data in the queue's keys, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from letta_bridge.request_queue.admin import DeadLetter, QueueAdmin
from letta_bridge.request_queue.interrupts import names_user
from letta_bridge.request_queue.journal_backlog import JournalEntry, RedisJournalBacklog
from letta_bridge.request_queue.keys import Keys, per_task, user_lane
from letta_bridge.request_queue.port import RESTORED_LANE, Outcome, shared_lanes, user_of_restored
from letta_bridge.request_queue.reply_stream import BEGINNING, ReplyStream
from letta_bridge.request_queue.scripts import ScriptRunner, read
from letta_bridge.settings import QueueSettings
from shared_utils.contracts.messages import json_object
from shared_utils.contracts.ownership import Ownership, ownership
from shared_utils.redis.connection import RedisClient
from shared_utils.redis.pages import glob_escaped, key_items, list_items

_ERASE_USER_SCRIPT: Final = read("erase_user")
_FORGET_MISSED: Final = read("erase_missed")
_KEYS_PER_SCAN: Final = 500
_TASKS_PER_ERASURE: Final = 20
"""Waiting tasks dropped by one call: they come back, to be answered."""
_RECORD_LINES: Final = 3
"""Lines before the payload in the record of a turn; an entry has one."""
_WRITER_PATIENCE_SECONDS: Final = 60.0
"""How long to wait for the next call of the journal's writer: twice its lease."""


@dataclass(slots=True)
class UserKeys:
    """Keys that may contain data of a user, from one scan of all keys."""

    kept_replies: list[bytes] = field(default_factory=list)
    """Each holds one of theirs."""
    task_streams: list[bytes] = field(default_factory=list)
    """Each holds the events of a task of theirs."""
    fallback_answers: list[bytes] = field(default_factory=list)
    """Each holds an answer of theirs that was not fetched."""
    token_counts: list[bytes] = field(default_factory=list)
    """Hashes of a day; each has a field of theirs."""


class UserRecords:
    """One user in one queue. Every method may raise one of ``CONNECTION_ERRORS``."""

    def __init__(self, client: RedisClient, settings: QueueSettings, user_id: str) -> None:
        self._client = client
        self._settings = settings
        self._admin = QueueAdmin(client, settings)
        self._keys = Keys(settings.requests)
        self._scripts = ScriptRunner(client, self._keys.script_keys)
        self._user_id = user_id
        self._lane = user_lane(user_id)
        self._shared_lanes = shared_lanes()

    async def in_flight(self) -> bool:
        """Whether a turn of the user is in flight."""
        if await self._client.hexists(self._keys.lanes, self._lane):
            return True
        receipts = await self._client.hmget(self._keys.lanes, list(self._shared_lanes))
        restored = self._client.hscan_iter(self._keys.lanes, match=glob_escaped(self._lane + RESTORED_LANE) + "*")
        receipts += [receipt async for _, receipt in cast("AsyncIterator[tuple[bytes, bytes]]", restored)]
        for receipt in filter(None, receipts):
            record = await self._client.hget(self._keys.turns, cast("str", receipt))
            if isinstance(record, bytes) and self._is_mine(record.split(b"\n", 3)[-1]):
                return True
        return False

    async def creating(self, personas: Sequence[str]) -> bool:
        """Whether an agent of the user may be in creation, by the leases on it."""
        leases = [await self._client.exists(self._keys.creating(self._user_id, persona)) for persona in personas]
        return any(leases)

    async def waiting(self) -> AsyncIterator[bytes]:
        """The user's waiting payloads, oldest first: those in lanes, then those in the request list."""
        lane = [entry async for entry in list_items(self._client, self._keys.lane(self._user_id))]
        for entry in reversed(lane):
            yield _payload(entry)
        async for _, entry in self._in_other_lanes():
            yield _payload(entry)
        for key in (self._keys.incoming, self._keys.requests):
            mine = [payload async for payload in list_items(self._client, key) if self._is_mine(payload)]
            for payload in reversed(mine):
                yield payload

    async def drop_waiting(self, outcome: Outcome = Outcome.ERASED) -> AsyncIterator[Sequence[bytes]]:
        """Drop the tasks that wait now, and yield those that one call removed; a turn in flight is left alone.

        The places are read in the order in which tasks move, so that no task is missed.

        Args:
            outcome: under which the taken tasks are counted.

        Yields:
            Entries of tasks in a lane, see ``records.lua``; for a task in the request list, a line end and its
            payload.
        """
        for key in (self._keys.requests, self._keys.incoming):
            mine = {payload async for payload in list_items(self._client, key) if self._is_mine(payload)}
            for payload in mine:
                yield [b"\n" + payload] * await self._client.lrem(key, 0, cast("str", payload))
        for lane, entry in [found async for found in self._in_other_lanes()]:
            yield await self._scripts.run(_ERASE_USER_SCRIPT, lane, 0, outcome.value, entry)
        while dropped := await self._scripts.run(_ERASE_USER_SCRIPT, self._lane, _TASKS_PER_ERASURE, outcome.value):
            yield dropped

    async def missed(self) -> list[bytes]:
        """The user's missed turns, oldest first."""
        return [turn async for turn in list_items(self._client, self._keys.missed(self._user_id))]

    async def drop_missed(self) -> int:
        """Delete them; returns how many."""
        gone: int = await self._scripts.run(_FORGET_MISSED, self._user_id)
        return gone

    async def find_keys(self) -> UserKeys:
        """Look through all keys of the queue, once."""
        keys, found = self._keys, UserKeys()
        kept, streams = keys.reply(self._user_id, "").encode(), keys.stream(self._user_id, "").encode()
        answers: list[bytes] = []
        async for key in self._client.scan_iter(
            match=glob_escaped(f"{{{keys.requests}}}:") + "*", count=_KEYS_PER_SCAN * 2
        ):
            if key.startswith(kept):
                found.kept_replies.append(key)
            elif key.startswith(streams):
                found.task_streams.append(key)
            elif key.startswith(keys.fallback_prefix.encode()):
                answers.append(key)
            elif key.startswith(keys.tokens_prefix.encode()) and await self._client.hexists(key, self._user_id):
                found.token_counts.append(key)
        for key in answers:
            answer = await self._client.get(key)
            if isinstance(answer, bytes) and json_object(answer).get("user_id") == self._user_id:
                found.fallback_answers.append(key)
        return found

    async def values(self, keys: list[bytes]) -> list[bytes]:
        """The values of these keys; deleted keys are left out."""
        return [value for key in keys if isinstance(value := await self._client.get(key), bytes)]

    async def events(self, keys: list[bytes]) -> list[bytes]:
        """The events in these task streams."""
        values = [value for key in keys async for value in key_items(self._client, key, b"stream")]
        return [value for value in values if value.startswith(b"{")]  # the other one names the hand-out

    async def interrupts(self) -> list[bytes]:
        """The user's interrupts: those that wait to be taken, then those that are noted, JSON."""
        noted = [value.partition(b"\n")[2] async for _, value in self._noted_interrupts()]
        return [*await self._waiting_interrupts(), *noted]

    async def drop_interrupts(self) -> int:
        """Remove these; returns how many."""
        gone = 0
        for message in set(await self._waiting_interrupts()):
            gone += await self._client.lrem(self._settings.control_list, 0, cast("str", message))
        fields = [name async for name, _ in self._noted_interrupts()]
        return gone + sum([await self._client.hdel(self._keys.interrupts, cast("str", name)) for name in fields])

    async def _waiting_interrupts(self) -> list[bytes]:
        messages = list_items(self._client, self._settings.control_list)
        return [message async for message in messages if names_user(message, self._user_id)]

    async def _noted_interrupts(self) -> AsyncIterator[tuple[bytes, bytes]]:
        mine = glob_escaped(per_task(self._user_id, "")) + "*"
        found = self._client.hscan_iter(self._keys.interrupts, match=mine, count=_KEYS_PER_SCAN)
        async for name, value in cast("AsyncIterator[tuple[bytes, bytes]]", found):
            yield name, value

    async def drop_keys(self, keys: list[bytes]) -> int:
        """Delete these keys; returns how many existed."""
        return sum([await self._client.delete(key) for key in keys])

    async def drop_token_counts(self, keys: list[bytes]) -> int:
        """Delete the user's token counts of these days; returns how many days."""
        return sum([await self._client.hdel(key.decode(), self._user_id) for key in keys])

    async def has_rate(self) -> bool:
        """Whether the user has a rate counter."""
        return bool(await self._client.exists(self._keys.rate_prefix + self._user_id))

    async def drop_rate(self) -> int:
        """Delete the rate counter; returns 1 if there was one."""
        return int(await self._client.delete(self._keys.rate_prefix + self._user_id))

    async def streamed_replies(self) -> AsyncIterator[tuple[str, bytes]]:
        """Id and text of each reply to the user in the stream."""
        async for entry in ReplyStream(self._client, self._keys).after(BEGINNING):
            if json_object(entry.reply).get("user_id") == self._user_id:
                yield entry.id, entry.reply

    async def drop_streamed(self) -> int:
        """Remove these; how many."""
        numbers = [number async for number, _ in self.streamed_replies()]
        return sum([await self._client.xdel(self._keys.replies, number) for number in numbers])

    async def unjournalled(self) -> AsyncIterator[tuple[str, bytes]]:
        """Id and turn of each of the user's entries that wait for the journal."""
        async for entry in RedisJournalBacklog(self._client, self._keys, "").entries():
            if self._names_user(entry):
                yield entry.id, entry.turn

    async def drop_unjournalled(self) -> int:
        """Remove the user's entries that wait for the journal; returns how many. None is being written afterwards.

        Raises:
            TimeoutError: the journal's writer did not call again.
        """
        backlog = RedisJournalBacklog(self._client, self._keys, "")
        gone = 0
        async for entry in backlog.entries():
            if self._names_user(entry) and await self._client.xdel(self._keys.journal, entry.id):
                gone += 1
                await self._client.hincrby(self._keys.counters, "journal_bytes", -entry.size)
        if await self._client.exists(self._keys.journal_writer):
            async with asyncio.timeout(_WRITER_PATIENCE_SECONDS):
                await backlog.looked()
        return gone

    async def dead(self) -> AsyncIterator[DeadLetter]:
        """The user's dead letters, including those that only their body assigns to the user."""
        async for letter in self._admin.dead():
            named = letter.about.get("user_id")
            if named == self._user_id or (
                (named is None or self._is_lane_of_any(named)) and self._is_in(await self.payload(letter))
            ):
                yield letter

    async def payload(self, letter: DeadLetter) -> bytes:
        """A letter's complete payload; empty if it is gone."""
        return await self._admin.payload(letter) or b""

    async def drop_dead(self) -> int:
        """Remove the user's dead letters; returns how many."""
        mine = {letter.digest async for letter in self.dead()}
        if not mine:
            return 0
        return len([letter async for letter in self._admin.sweep(lambda one: one.digest in mine, retry=False)])

    def _names_user(self, entry: JournalEntry) -> bool:
        return self._user_id in {json_object(half).get("user_id") for half in (entry.turn, entry.reply)}

    async def _in_other_lanes(self) -> AsyncIterator[tuple[str, bytes]]:
        """Lane and entry of each of the user's tasks that wait in another lane than the user's own."""
        for lane in (*self._shared_lanes, *await self._restored_lanes()):
            async for entry in list_items(self._client, self._keys.lane_prefix + lane):
                if self._is_mine(_payload(entry)):
                    yield lane, entry

    async def _restored_lanes(self) -> list[str]:
        """The user's extra lanes with waiting tasks; ``restore.lua`` creates them, and an expired lease fills them."""
        begin = (self._lane + RESTORED_LANE).encode()
        ready = [lane async for lane in list_items(self._client, self._keys.ready) if lane.startswith(begin)]
        return [lane.decode(errors="replace") for lane in dict.fromkeys(ready)]

    def _is_lane_of_any(self, named: object) -> bool:
        """Whether a lane named by a record that was set aside is one of no single user."""
        return named in self._shared_lanes or (isinstance(named, str) and user_of_restored(named) == self._user_id)

    def _is_in(self, body: bytes) -> bool:
        """Whether a letter's body, or a task or reply after the first lines of a record in it, is the user's."""
        lines = body.split(b"\n", _RECORD_LINES)
        return any(self._is_mine(b"\n".join(lines[start:])) for start in range(len(lines)))

    def _is_mine(self, payload: bytes) -> bool:
        return ownership(payload, self._user_id) is Ownership.THEIRS


def _payload(entry: bytes) -> bytes:
    return entry.partition(b"\n")[2]
