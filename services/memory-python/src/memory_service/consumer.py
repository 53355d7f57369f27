"""The loop that takes tasks: claim, store, then settle or pass on for an answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from memory_service import records
from memory_service.answers import Answers, Ask
from memory_service.handover import read_handover
from memory_service.input_queue import BLOCK_SECONDS, Held, InputQueue, Letter, Settlement
from memory_service.memory_store import MemoryStore
from memory_service.outage import Outage
from memory_service.records import Memory
from memory_service.settings import MemorySettings
from memory_service.summary import Summaries
from shared_utils.contracts.limits import BOUNDS, Limits
from shared_utils.contracts.messages import HANDOVER_KEY, Handover, Task, parse_task
from shared_utils.errors import MalformedMessage
from shared_utils.observability import logs
from shared_utils.redis.connection import CONNECTION_ERRORS

_LOG: Final = logs.get(__name__)
_HANDOVER_MARK: Final = HANDOVER_KEY.encode()


@dataclass(frozen=True, slots=True)
class _Taken:
    held: Held
    task: Task
    handover: Handover | None
    memory: Memory


class Consumer:
    """Serial: one batch after another, so that each user's messages are stored in order of arrival.

    It has no state of its own. After any failure, the next round starts with the tasks that Redis lists as claimed and
    not settled; storing is idempotent.
    """

    def __init__(
        self,
        queue: InputQueue,
        store: MemoryStore,
        answers: Answers,
        summaries: Summaries | None,
        outage: Outage,
        *,
        settings: MemorySettings,
        limits: Limits,
        tenant: str = "",
    ) -> None:
        self._queue = queue
        self._store = store
        self._answers = answers
        self._summaries = summaries
        self._outage = outage
        self._settings = settings
        self._limits = limits
        self._tenant = tenant
        self._recover = True
        self._adopt_at = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Take tasks until ``stopping`` is set; then return between two rounds."""
        while not stopping.is_set():
            try:
                await self._round()
            except CONNECTION_ERRORS as error:
                self._recover = True
                await self._outage.wait("queue", error)
            else:
                self._outage.over("queue")

    async def _round(self) -> None:
        await self._find_forgotten()
        room = self._settings.answer.max_waiting - len(self._answers.receipts)
        held = await self._queue.claim(max(0, min(self._settings.batch, room)))
        if held:
            await self._take(held)
        elif room <= 0:
            await self._answers.one_less(BLOCK_SECONDS)
        else:
            await self._queue.wait()

    async def _find_forgotten(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._adopt_at:
            adopted = await self._queue.adopt()
            self._adopt_at = loop.time() + self._settings.lease_seconds / 3
            if adopted:
                _LOG.info("tasks_taken_over", count=adopted)
                self._recover = True
        if self._recover:
            async for forgotten in self._queue.held(but=self._answers.receipts):
                await self._take(forgotten)
            self._recover = False

    async def _take(self, batch: list[Held]) -> None:
        letters: list[Letter] = []
        taken: list[_Taken] = []
        for held in batch:
            try:
                taken.append(_read(held, self._limits, self._tenant))
            except MalformedMessage as error:
                letters.append(Letter(held.payload, error.code, str(error), receipt=held.receipt))
                _LOG.warning("task_malformed", task_id=error.task_id, reason=str(error))
            except Exception:  # noqa: BLE001  # the same task would end every instance that takes it over
                letters.append(Letter(held.payload, "internal", "it could not be read; see the log", held.receipt))
                _LOG.exception("task_failed")
        outcomes = await self._store.remember([one.memory for one in taken]) if taken else []
        done: list[str] = []
        stored = erased = 0
        for one, outcome in zip(taken, outcomes, strict=True):
            stored += outcome.stored
            erased += outcome.erased
            if outcome.erased:
                done.append(one.held.receipt)
            elif outcome.refused:
                letters.append(Letter(one.held.payload, "refused", outcome.refused, receipt=one.held.receipt))
                _LOG.warning("task_refused", task_id=one.task.task_id, reason=outcome.refused)
            elif one.handover is None:
                done.append(one.held.receipt)
            else:
                self._accept(one, one.handover)
            if self._summaries is not None and not outcome.erased:
                self._summaries.consider(one.task.user_id, outcome.length)
        repeated = len(taken) - stored - erased - sum(outcome.refused is not None for outcome in outcomes)
        counts = {"stored_user": stored, "repeated": repeated, "erased": erased}
        await self._queue.settle(Settlement(done, letters, counts))

    def _accept(self, one: _Taken, handover: Handover) -> None:
        self._answers.accept(
            Ask(
                receipt=one.held.receipt,
                payload=one.held.payload,
                task=one.task,
                handover=handover,
                message_id=one.memory.record.message_id,
                taken_at=asyncio.get_running_loop().time(),
                origin_ms=one.memory.origin_ms,
            )
        )


def _read(held: Held, limits: Limits, tenant: str) -> _Taken:
    # A task handed over was within the bridge's limits, which may be others, and has grown by the handover itself.
    marked = _HANDOVER_MARK in held.payload
    task = parse_task(held.payload, BOUNDS if marked else limits)
    handover = read_handover(task, tenant)
    if marked and handover is None:
        task = parse_task(held.payload, limits)
    elif handover is not None and handover.task_id is not None:
        task = task.model_copy(update={"task_id": handover.task_id})
    said = bool(task.content.strip())
    if handover is None and not said and not task.input_file:
        raise MalformedMessage("the task has neither content nor input_file", task_id=task.task_id or None)
    # This service answers the bridge's tasks, so the chat AI is not asked for an answer.
    wanted = said and handover is None
    origins = (held.claimed_ms, handover.taken_ms if handover else None)
    origin = min((ms for ms in origins if ms is not None), default=None)
    persona = handover.persona if handover else None
    memory = records.of_task(task, receipt=held.receipt, require_ai_response=wanted, persona=persona, origin_ms=origin)
    return _Taken(held, task, handover, memory)
