"""The words of an answer: from the model with the recent conversation, or a plain sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from memory_service import context, wording
from memory_service.context import NewestFirst
from memory_service.model import ChatModel, Message
from memory_service.recall import Recall
from memory_service.settings import AnswerSettings
from memory_service.wording import Language
from shared_utils import logs
from shared_utils.errors import ServiceError
from shared_utils.messages import MemoryRecord, Task

_LOG: Final = logs.get(__name__)
_FAILURES_BEFORE_REST: Final = 3
_REST_SECONDS: Final = 30.0
_CONTEXT_CHARACTERS: Final = 24_000
_ANSWER_CHARACTERS: Final = 32_000
"""Of a model's answer at most: it is kept in Redis and shown to the model again."""
SUMMARY: Final = "memory_summary"


class Composer:
    """Finds words within a time limit, whatever the model does."""

    def __init__(
        self,
        memory: NewestFirst,
        settings: AnswerSettings,
        *,
        window: int,
        model: ChatModel | None,
        recall: Recall | None = None,
    ) -> None:
        self._memory = memory
        self._settings = settings
        self._window = window
        self._model = model
        self._recall = recall
        self._free = asyncio.Semaphore(settings.concurrency)
        self._failures = 0
        self._resting_until = 0.0

    @property
    def model_state(self) -> str:
        """For people: ``not configured``, ``ok``, or how often it failed in a row."""
        if self._model is None:
            return "not configured"
        return "ok" if self._failures == 0 else f"failed {self._failures} times in a row"

    @property
    def model_ok(self) -> bool:
        """False where a configured model failed lately."""
        return self._failures == 0

    async def compose(self, task: Task, message_id: str, *, deadline: float, long_term: bool = True) -> str:
        """The answer to a remembered task.

        Args:
            task: what the user said.
            message_id: under which it is remembered.
            deadline: the event loop's time at which the plain sentence answers instead of the model.
            long_term: whether earlier conversations may be recalled for it.

        Raises:
            RedisError: Redis is away, the conversation cannot be read.
        """
        spoken = wording.language(task, self._settings.language)
        plain = wording.sentence(self._settings.sentences, spoken)
        now = asyncio.get_running_loop().time()
        if self._model is None or not task.content.strip() or now >= deadline or now < self._resting_until:
            return plain
        conversation = await context.recent(self._memory, task.user_id, self._window)
        recalled = await self._recalled(task, conversation) if long_term else []
        messages = self._messages(task, recalled, context.before(conversation, message_id), spoken)
        try:
            async with asyncio.timeout_at(deadline), self._free:
                text = await self._model.complete(
                    messages, max_tokens=self._settings.max_tokens, temperature=self._settings.temperature
                )
        except (ServiceError, TimeoutError) as error:
            self._failed(error)
            return plain
        self._failures = 0
        return text[:_ANSWER_CHARACTERS]

    async def _recalled(self, task: Task, conversation: Sequence[MemoryRecord]) -> list[str]:
        if self._recall is None:
            return []
        shown = {record.metadata.task_id for record in conversation if record.metadata.task_id}
        return await self._recall.about(task.user_id, task.content, shown=shown)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures >= _FAILURES_BEFORE_REST:
            self._resting_until = asyncio.get_running_loop().time() + _REST_SECONDS
        reason = str(error) or "took longer than answer.time_limit"
        _LOG.warning("model_failed", reason=reason, in_a_row=self._failures)

    def _messages(
        self, task: Task, recalled: Sequence[str], earlier: Sequence[MemoryRecord], spoken: Language
    ) -> list[Message]:
        instructions = self._settings.instructions
        system = instructions.zh if spoken == "zh" else instructions.en
        room = _CONTEXT_CHARACTERS - len(task.content) - sum(map(len, recalled))
        turns: list[Message] = []
        for record in reversed(earlier):
            room -= len(record.content)
            if room < 0:
                break
            if record.content:
                turns.append(_turn(record))
        if recalled:
            turns.append({"role": "system", "content": wording.recalled(recalled, spoken)})
        return [
            {"role": "system", "content": system},
            *reversed(turns),
            {"role": "user", "content": task.content},
        ]


def _turn(record: MemoryRecord) -> Message:
    if record.type == SUMMARY:
        return {"role": "system", "content": f"Summary of the earlier conversation: {record.content}"}
    return {"role": "assistant" if record.source == "ai" else "user", "content": record.content}
