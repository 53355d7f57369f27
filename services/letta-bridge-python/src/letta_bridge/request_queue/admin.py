"""An operator's access to the queue: inspect it, pause it, and process dead letters.

Every operation is bounded: it reads page by page, and payloads only on request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from redis.exceptions import ResponseError

from letta_bridge.former_codes import present_code
from letta_bridge.request_queue.idempotency import marked
from letta_bridge.request_queue.keys import BRIDGE_TTL_MS, Keys, per_task, user_lane
from letta_bridge.request_queue.port import FULL_LANE, PauseMode
from letta_bridge.request_queue.records import body_of_letter, parts_of_number
from letta_bridge.request_queue.scripts import IDLE_CONSUMER_SUFFIX, ScriptRunner, read
from letta_bridge.settings import QueueSettings
from shared_utils.contracts.messages import ErrorReply, dump, json_object, now
from shared_utils.redis.connection import RedisClient
from shared_utils.redis.failures import RedisFailure, redis_failure

_LANES_SCRIPT: Final = read("lanes")
_LIST_DEAD_SCRIPT: Final = read("list_dead")
_PROBE_SCRIPT: Final = read("probe")
_REQUEUE_DEAD_SCRIPT: Final = read("requeue_dead")

_ROWS_PER_CALL: Final = 100
_MAX_EXAMINED_LANES: Final = 5000
"""Lanes looked at for the longest waiting ones; further ones are only counted."""
_ID_PREFIX_LENGTH: Final = 12
_PREVIEW_BYTES: Final = 4096
_WHOLE_PAYLOAD_BYTES: Final = 2**40
_ELSEWHERE, _REMOVED, _LEFT = 0, 1, 2
"""What ``requeue_dead.lua`` returns: another letter is at this position, removed, unreadable for this release."""


@dataclass(frozen=True, slots=True)
class Pause:
    """What is stopped."""

    mode: PauseMode
    since: float
    """Seconds since 1970, by Redis's clock."""
    reason: str


@dataclass(frozen=True, slots=True)
class InFlight:
    """A turn in flight."""

    receipt: str
    bridge: str
    attempts: int
    age: float
    """Seconds since the turn was handed to the bridge; since its task was taken where an older bridge works on it."""
    lease_left: float
    """Seconds until another bridge takes it over unless its bridge renews the lease; negative if overdue."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One user's tasks."""

    lane: str
    """The user's id, with a ~ before it if it begins with one; ``~<number>`` for tasks that name no user."""
    waiting: int
    oldest_wait: float
    """Seconds the oldest waiting task has been waiting since it was taken; 0 where none waits."""
    in_flight: InFlight | None


@dataclass(frozen=True, slots=True)
class Lanes:
    """Waiting lanes and turns in flight, the longest first."""

    in_flight: int
    """Turns in flight, of all lanes."""
    ready: int
    """Lanes that wait for a bridge with free capacity."""
    lanes: tuple[Lane, ...]
    """The most urgent ones only."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A task that could not be processed."""

    id: str
    """Derived from the letter's content, so it stays the same while other letters arrive or go."""
    position: int
    """Counted from the oldest letter, which is 1."""
    digest: str
    about: Mapping[str, Any]
    """code, reason, attempts, time, task_id, user_id, number and lane of the task; empty if no bridge wrote the letter.

    A record that was set aside has v, record, code, reason, time, lane and user_id.
    """
    size: int
    """Bytes of the payload."""
    payload: bytes
    """The beginning, or all, of the task as it was pushed, or of the record that was set aside."""

    @property
    def code(self) -> str:
        """The machine-readable reason."""
        return str(self.about.get("code", "unknown"))


class QueueAdmin:
    """One queue, seen by an operator.

    Every method may raise one of ``shared_utils.redis.connection.CONNECTION_ERRORS``.
    """

    def __init__(self, client: RedisClient, settings: QueueSettings) -> None:
        self._client = client
        self._settings = settings
        self.keys = Keys(settings.requests)
        self._scripts = ScriptRunner(client, self.keys.script_keys)

    async def check_redis(self) -> RedisFailure | None:
        """Why no bridge can use this queue now, as far as this Redis user can tell; None if bridges can.

        Nothing is changed.
        """
        try:
            await self._scripts.run(_PROBE_SCRIPT)
        except ResponseError as error:
            return redis_failure(error)
        return None

    async def pause(self, mode: PauseMode, reason: str = "") -> None:
        """Stop all bridges of this queue from taking tasks and, depending on ``mode``, from handing them out."""
        seconds, micros = await self._client.time()
        since = seconds * 1000 + micros // 1000
        fields: dict[Any, Any] = {"mode": mode.value, "since": since, "reason": reason}
        await self._client.hset(self.keys.paused, mapping=fields)

    async def resume(self) -> Pause | None:
        """End the pause; returns the pause that was in force."""
        paused = await self.paused()
        await self._client.delete(self.keys.paused)
        return paused

    async def paused(self) -> Pause | None:
        """The present pause. An unknown mode, of a later release, counts as ALL, as it does for bridges."""
        fields = cast("dict[bytes, bytes]", await self._client.hgetall(self.keys.paused))
        if not fields.get(b"mode"):
            return None
        mode = PauseMode.INTAKE if fields[b"mode"] == b"intake" else PauseMode.ALL
        since = fields.get(b"since", b"")
        since_ms = int(since) if since.isdigit() else 0
        return Pause(mode, since_ms / 1000, fields.get(b"reason", b"").decode(errors="replace"))

    async def live_bridges(self) -> int:
        """Bridges of this queue with a heartbeat within the last 15 s."""
        seconds, micros = await self._client.time()
        alive: int = await self._client.zcount(
            self.keys.bridges, seconds * 1000 + micros // 1000 - BRIDGE_TTL_MS, "+inf"
        )
        return alive

    async def lanes(self, limit: int) -> Lanes:
        """The ``limit`` lanes whose oldest task, waiting or in flight, was taken first."""
        in_flight, ready, found = await self._examined()
        found.sort(key=lambda lane: -max(lane.oldest_wait, lane.in_flight.age if lane.in_flight else 0))
        return Lanes(in_flight, ready, tuple(found[:limit]))

    async def fullest_lane(self) -> Lane | None:
        """The lane with the most waiting tasks; None if no task waits."""
        _, _, found = await self._examined()
        fullest = max(found, key=lambda lane: lane.waiting, default=None)
        return fullest if fullest and fullest.waiting else None

    async def waiting_of(self, user_id: str) -> int:
        """How many tasks of this user wait in their lane."""
        return await self._client.llen(self.keys.lane(user_lane(user_id)))

    async def _examined(self) -> tuple[int, int, list[Lane]]:
        """Turns in flight, lanes that wait for a bridge, and the first ``_MAX_EXAMINED_LANES`` of each."""
        found: list[Lane] = []
        in_flight = ready = 0
        for start in range(0, _MAX_EXAMINED_LANES, _ROWS_PER_CALL):
            row = await self._scripts.run(_LANES_SCRIPT, start, start + _ROWS_PER_CALL - 1)
            now_ms, in_flight, ready, turns, waiting = row
            found += [_busy_lane(turn, now_ms) for turn in turns]
            found += [Lane(_text(lane), count, _since(first, now_ms), None) for lane, count, first in waiting]
            if start + _ROWS_PER_CALL >= max(in_flight, ready):
                break
        return in_flight, ready, found

    async def unfinished(self) -> tuple[int, int]:
        """The numbers of turns in flight and of waiting lanes; if both are 0, every task that was taken is settled."""
        _, in_flight, ready, _, _ = await self._scripts.run(_LANES_SCRIPT, 1, 0)
        return in_flight, ready

    async def dead_count(self) -> int:
        """How many dead letters there are."""
        return await self._client.llen(self.keys.dead)

    async def dead(self) -> AsyncIterator[DeadLetter]:
        """All dead letters, newest first, each with the beginning of its payload."""
        position = await self.dead_count()
        while position > 0 and (
            page := await self._letters(position, max(1, position - _ROWS_PER_CALL + 1), _PREVIEW_BYTES)
        ):
            for letter in page:
                yield letter
            position -= len(page)

    async def find_dead(self, id_prefix: str) -> list[DeadLetter]:
        """The letters whose id has this prefix."""
        return [letter async for letter in self.dead() if letter.digest.startswith(id_prefix.lower())]

    async def payload(self, letter: DeadLetter) -> bytes | None:
        """A letter's complete payload; None if the letter is gone."""
        position: int | None = letter.position
        while position is not None:
            found = await self._letters(position, position, letter.size)
            if found and found[0].digest == letter.digest:
                return found[0].payload
            position = await self._newest_of({letter.digest}, position)
        return None

    async def retry(self, letter: DeadLetter) -> bool:
        """Requeue the task and remove the letter, in one step.

        The task keeps its number and counts as a redelivery: the bridge looks for it in Letta before it sends it.

        Returns:
            False if the letter is gone, or holds a record that this release cannot read.
        """
        return await self._requeue_dead_anywhere(letter, "retry")

    async def drop(self, letter: DeadLetter) -> bool:
        """Delete the letter; False if it is gone."""
        return await self._requeue_dead_anywhere(letter, "drop")

    async def sweep(
        self, chosen: Callable[[DeadLetter], bool], *, retry: bool, first: int = 1, last: int | None = None
    ) -> AsyncIterator[DeadLetter]:
        """Retry or drop every chosen letter between two positions, oldest first; yields each that was removed.

        ``chosen`` is called once for each letter, even if another operator, or a bridge that exceeds
        ``queue.dead_bytes``, removes letters meanwhile. Letters that arrive meanwhile are left alone, so a task that
        fails again at once is not retried for ever.
        """
        position, until = first, min(last or _WHOLE_PAYLOAD_BYTES, await self.dead_count())
        before = await self._letters(max(1, first - _ROWS_PER_CALL), first - 1, 0) if first > 1 else []
        passed = {letter.digest for letter in before}
        end = {letter.digest for letter in await self._letters(until, until, 0)}
        left, asked = until - first + 1, ""
        while left > 0:
            page = await self._letters(position, position + min(left, _ROWS_PER_CALL) - 1, _PREVIEW_BYTES)
            if not page:
                return
            for letter in page:
                # The letters after a removed one move up by one place.
                here = replace(letter, position=position)
                wanted = here.digest == asked or chosen(here)
                result = await self._requeue_dead(here, "retry" if retry else "drop") if wanted else _LEFT
                if result == _ELSEWHERE:
                    asked = here.digest
                    behind = await self._newest_of(passed, position)
                    if behind is None and first > 1:
                        return  # the chosen letters can no longer be identified
                    position = (behind or 0) + 1
                    break
                left -= 1
                if result == _REMOVED:
                    yield here
                else:
                    passed.add(here.digest)
                    position += 1
                if here.digest in end:
                    return

    async def _newest_of(self, digests: Collection[str], below: int) -> int | None:
        """The position of the newest of these letters, which is lower after older letters were removed."""
        position = min(below - 1, await self.dead_count())
        while position > 0 and (page := await self._letters(position, max(1, position - _ROWS_PER_CALL + 1), 0)):
            for letter in page:
                if letter.digest in digests:
                    return letter.position
            position -= len(page)
        return None

    async def _letters(self, first: int, last: int, payload_bytes: int) -> list[DeadLetter]:
        """Letters from ``first`` towards ``last``, which may be older; fewer if they are large."""
        rows = await self._scripts.run(_LIST_DEAD_SCRIPT, first, last, payload_bytes)
        step = 1 if first <= last else -1
        return [_letter(first + step * index, row) for index, row in enumerate(rows)]

    async def _requeue_dead_anywhere(self, letter: DeadLetter, action: str) -> bool:
        """Remove the letter, whatever its present position; returns whether it was there."""
        position: int | None = letter.position
        while position is not None:
            result = await self._requeue_dead(replace(letter, position=position), action)
            if result != _ELSEWHERE:
                return result == _REMOVED
            position = await self._newest_of({letter.digest}, position)
        return False

    async def _requeue_dead(self, letter: DeadLetter, action: str) -> int:
        """See ``requeue_dead.lua``."""
        about = letter.about
        task_id, user_id = about.get("task_id"), about.get("user_id")
        kept = per_task(str(user_id), str(task_id)) if task_id and user_id else ""
        ttl_ms = int(self._settings.reply_ttl_seconds * 1000)
        lane = _lane_of(letter)
        seq, first_ms = (parts_of_number(about.get("number")) if lane else None) or ("", "")
        arguments = (letter.position, letter.digest, action, kept, _mendable(letter) if kept else b"", ttl_ms)
        key = about.get("idempotency_key")
        words = (lane, seq, first_ms, key if isinstance(key, str) else "")
        result: int = await self._scripts.run(_REQUEUE_DEAD_SCRIPT, *arguments, body_of_letter(about), *words)
        return result


def _lane_of(letter: DeadLetter) -> str:
    """The lane that a retried task goes to; empty if the letter does not name one."""
    lane, user_id = letter.about.get("lane"), letter.about.get("user_id")
    if isinstance(lane, str) and lane.startswith(FULL_LANE) and isinstance(user_id, str):
        return user_lane(user_id)  # an overflow lane would refuse it again
    return lane if isinstance(lane, str) else ""


def _mendable(letter: DeadLetter) -> bytes:
    """A retryable error reply, from which the retried task inherits its identity."""
    reply = dump(
        ErrorReply(
            task_id=str(letter.about.get("task_id")),
            user_id=str(letter.about.get("user_id")),
            message="an operator has put the task back on the request list",
            timestamp=now(),
            code=letter.code,
            retryable=True,
        )
    )
    return marked(reply, letter.about)


def _letter(position: int, row: list[Any]) -> DeadLetter:
    digest, line, size, payload = row
    return DeadLetter(
        id=digest.decode()[:_ID_PREFIX_LENGTH],
        position=position,
        digest=digest.decode(),
        about=_present(json_object(line)),
        size=size,
        payload=payload,
    )


def _busy_lane(row: list[Any], now_ms: int) -> Lane:
    receipt, bridge, lane, attempts, begun_ms, deadline, waiting, oldest = row
    in_flight = InFlight(
        receipt=_text(receipt),
        bridge=_text(bridge).removesuffix(IDLE_CONSUMER_SUFFIX),
        attempts=int(attempts),
        age=_since(begun_ms, now_ms),
        lease_left=(float(deadline) - now_ms) / 1000,
    )
    return Lane(_text(lane), waiting, _since(oldest, now_ms), in_flight)


def _since(first_ms: bytes, now_ms: int) -> float:
    """Seconds; 0 if nothing waits."""
    return max(0, now_ms - int(first_ms)) / 1000 if first_ms else 0.0


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _present(about: dict[str, Any]) -> dict[str, Any]:
    """The letter's fields, with the present name of its code: bridges of the last release write former names."""
    code = about.get("code")
    return {**about, "code": present_code(code)} if isinstance(code, str) else about
