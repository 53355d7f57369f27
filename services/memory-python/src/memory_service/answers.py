"""Answers the bridge's tasks: per-user FIFO, different users concurrently."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from redis.exceptions import ResponseError

from memory_service import keys, records
from memory_service.composer import Composer
from memory_service.input_queue import InputQueue, Letter, Settlement
from memory_service.memory_store import MemoryStore
from memory_service.model import Hear
from memory_service.outage import Outage
from memory_service.parts import Parts
from memory_service.scripts import ANSWER
from shared_utils.contracts.messages import AiResponse, Handover, Reply, Task, TaskResponse, dump, now
from shared_utils.observability import logs
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient
from shared_utils.redis.lua_scripts import Call, run
from shared_utils.task_end import end, log_failures
from shared_utils.text import read_json
from shared_utils.waiting import wait_or_timeout

_LOG: Final = logs.get(__name__)
_ANSWER_SOURCE: Final = "memory-python"
_SHORT_TERM_ALONE: Final = frozenset({"temporary", "memory_type_unknown", "user_switch", "choice_unknown"})
"""Reasons of hand-overs without recall: temporary tasks, opted-out users, unknown choices."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A stored task that waits for its answer."""

    receipt: str
    payload: bytes
    task: Task
    handover: Handover
    message_id: str
    taken_at: float
    """The event loop's time."""
    origin_ms: int | None = None
    """See :class:`memory_service.records.Memory`."""


class Answers:
    """Holds asks until they are answered; until then each stays claimed in Redis."""

    def __init__(
        self,
        client: RedisClient,
        store: MemoryStore,
        queue: InputQueue,
        composer: Composer,
        outage: Outage,
        *,
        time_limit: float,
    ) -> None:
        self._client = client
        self._store = store
        self._queue = queue
        self._composer = composer
        self._outage = outage
        self._time_limit = time_limit
        self._lanes: dict[str, deque[Ask]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._receipts: set[str] = set()
        self._settled = asyncio.Event()

    @property
    def receipts(self) -> set[str]:
        """Of the asks that are held."""
        return self._receipts

    def accept(self, ask: Ask) -> None:
        """Answer this after the user's earlier asks."""
        self._receipts.add(ask.receipt)
        lane = self._lanes.get(ask.task.user_id)
        if lane is not None:
            lane.append(ask)
            return
        self._lanes[ask.task.user_id] = deque([ask])
        task = asyncio.create_task(self._serve(ask.task.user_id), name="answers")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def one_less(self, timeout: float) -> None:
        """Until an ask was answered, at most ``timeout`` seconds."""
        self._settled.clear()
        await wait_or_timeout(self._settled, timeout)

    async def drain(self, grace: float) -> int:
        """Finish within ``grace`` seconds; returns how many asks are left unanswered, still claimed in Redis."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        await end(*self._tasks)
        return len(self._receipts)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        log_failures(task)

    async def _serve(self, user_id: str) -> None:
        lane = self._lanes[user_id]
        while lane:
            await self._finish(lane[0])
            self._receipts.discard(lane.popleft().receipt)
            self._settled.set()
        del self._lanes[user_id]

    async def _finish(self, ask: Ask) -> None:
        """Answer and settle, retrying while Redis is away, until the answer would be too late."""
        loop = asyncio.get_running_loop()
        settlement: Settlement | None = None
        while True:
            try:
                if settlement is None:
                    settlement = await self._answer(ask)
                await self._queue.settle(settlement)
            except CONNECTION_ERRORS as error:
                await self._outage.wait("answers", error)
                if settlement is None and loop.time() - ask.taken_at > ask.handover.answer_ttl:
                    settlement = _unanswerable(
                        ask, "expired", "Redis refused the answer until its time limit had passed"
                    )
            except Exception:  # noqa: BLE001 # otherwise one task would block all later ones of its user
                _LOG.exception("answer_failed", task_id=ask.task.task_id)
                settlement = _unanswerable(ask, "internal", "the answer failed; see the log")
            else:
                self._outage.over("answers")
                return

    async def _answer(self, ask: Ask) -> Settlement:
        task, handover = ask.task, ask.handover
        if await self._client.exists(handover.answer_key):
            await self._remember_earlier(ask)
            return Settlement([ask.receipt], counts={"answers_not_needed": 1})
        words = await self._composer.compose(
            task,
            ask.message_id,
            deadline=ask.taken_at + min(self._time_limit, handover.time_limit_seconds or self._time_limit),
            long_term=handover.reason not in _SHORT_TERM_ALONE,
            persona=handover.persona,
            hear=self._parts_of(handover),
        )
        reply = Reply(
            task_id=task.task_id,
            user_id=task.user_id,
            response_text=words.text,
            memory_updated=False,
            source=_ANSWER_SOURCE,
            timestamp=now(),
            fallback_reason=handover.reason,
            fallback_cause=handover.cause,
            canned=words.canned or None,
            truncated=words.truncated or None,
        )
        response = _response(reply, ask.message_id)
        said_to_one = TaskResponse(
            text=words.text, source=_ANSWER_SOURCE, canned=reply.canned, truncated=reply.truncated
        )
        told = (
            *(handover.responses_channel, dump(reply)),
            *(handover.response_channel or keys.task_response(task.task_id), dump(said_to_one)),
            # A canned sentence is not published there: listeners would remember it as the AI's answer.
            *(() if words.canned else (keys.AI_RESPONSES, dump(response))),
        )
        said = await run(self._client, Call(ANSWER, (handover.answer_key,), (dump(reply), handover.answer_ttl, *told)))
        if not said:
            await self._remember_earlier(ask)
            return Settlement([ask.receipt], counts={"answers_not_needed": 1})
        _LOG.info("answered", task_id=task.task_id, reason=handover.reason)
        stored = 0 if words.canned else await self._remember(response, ask)
        return Settlement([ask.receipt], counts={"answered": 1, "stored_ai": stored})

    def _parts_of(self, handover: Handover) -> Hear | None:
        """Tells the bridge what the model writes; a part that Redis does not take is lost."""
        if (channel := handover.parts_channel) is None:
            return None
        parts = Parts(self._client, channel)
        return parts.say

    async def _remember_earlier(self, ask: Ask) -> None:
        """Remember an answer whose instance was killed before it remembered it; a tombstone is ignored."""
        try:
            raw = await self._client.get(ask.handover.answer_key)
            reply = Reply.model_validate(read_json(raw)) if raw else None
        except (ValueError, ResponseError):
            return
        if reply is None or reply.canned or reply.source != _ANSWER_SOURCE or reply.task_id != ask.task.task_id:
            return
        await self._remember(_response(reply, ask.message_id), ask)

    async def _remember(self, response: AiResponse, ask: Ask) -> int:
        memory = records.of_ai_response(
            response, task_id=ask.task.task_id, persona=ask.handover.persona, origin_ms=ask.origin_ms
        )
        (remembered,) = await self._store.remember([memory])
        return int(remembered.stored)


def _response(reply: Reply, message_id: str) -> AiResponse:
    return AiResponse(
        user_id=reply.user_id, text=reply.response_text, original_message_id=message_id, timestamp=reply.timestamp
    )


def _unanswerable(ask: Ask, code: str, reason: str) -> Settlement:
    return Settlement(letters=[Letter(ask.payload, code, reason, receipt=ask.receipt)])
