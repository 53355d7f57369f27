"""Composes the text of an answer: from the model with the recent conversation, or a canned sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from memory_service import context, records, wording
from memory_service.context import NewestFirst
from memory_service.errors import ModelRefused
from memory_service.model import ChatModel, Hear, Message
from memory_service.outage import failing
from memory_service.recall import Recall
from memory_service.settings import AnswerSettings
from shared_utils.contracts.language import Language
from shared_utils.contracts.messages import MemoryRecord, Task
from shared_utils.errors import ServiceError
from shared_utils.observability import logs

_LOG: Final = logs.get(__name__)
_FAILURES_BEFORE_REST: Final = 3
_REST_SECONDS: Final = 30.0
_CONTEXT_CHARACTERS: Final = 24_000
_ANSWER_CHARACTERS: Final = 32_000
"""Maximum of a model's answer, which is stored in Redis and becomes part of later prompts."""


@dataclass(frozen=True, slots=True)
class Words:
    """An answer's words."""

    text: str
    canned: bool = False
    """The plain sentence, which no model said."""
    truncated: bool = False
    """The model's text, cut off at its length limit."""


class Composer:
    """Composes a text within a time limit, whatever the model does."""

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
        self._plain_sentences = wording.plain_sentences(settings.sentences)
        self._free = asyncio.Semaphore(settings.concurrency)
        self._failures = 0
        self._failure = ""
        """Why the last one did, for operators."""
        self._resting_until = 0.0

    @property
    def model_state(self) -> str:
        """For people: ``not configured``, ``ok``, or how often it failed in a row and why."""
        if self._model is None:
            return "not configured"
        return "ok" if self._failures == 0 else failing(self._failures, self._failure)

    @property
    def model_ok(self) -> bool:
        """False if a configured model failed recently."""
        return self._failures == 0

    async def compose(
        self,
        task: Task,
        message_id: str,
        *,
        deadline: float,
        long_term: bool = True,
        persona: str | None = None,
        hear: Hear | None = None,
    ) -> Words:
        """The answer to a remembered task.

        Args:
            task: what the user said.
            message_id: the id of the stored message.
            deadline: the event loop's time at which a canned sentence replaces the model's answer.
            long_term: whether earlier conversations may be recalled for it.
            persona: the addressed one; messages to other personas are not shown. None shows all.
            hear: is called with each piece of the model's answer; a canned sentence may replace all of them.

        Raises:
            RedisError: Redis is away, the conversation cannot be read.
        """
        spoken = wording.language(task, self._settings.language)
        plain = Words(wording.sentence(self._settings.sentences, spoken), canned=True)
        now = asyncio.get_running_loop().time()
        if self._model is None or not task.content.strip() or now >= deadline or now < self._resting_until:
            return plain
        recent = await context.recent(self._memory, task.user_id, self._window)
        conversation = [record for record in recent if self._is_shown(record, persona)]
        recalled = await self._recalled(task, conversation, persona) if long_term else []
        messages = self._messages(task, recalled, context.before(conversation, message_id), spoken)
        try:
            async with asyncio.timeout_at(deadline), self._free:
                completion = await self._model.complete(
                    messages, max_tokens=self._settings.max_tokens, temperature=self._settings.temperature, hear=hear
                )
        except (ServiceError, TimeoutError) as error:
            self._failed(error)
            return plain
        self._failures, self._failure = 0, ""
        text = completion.text[:_ANSWER_CHARACTERS]
        return Words(text, truncated=completion.truncated or len(text) < len(completion.text))

    def _is_shown(self, record: MemoryRecord, persona: str | None) -> bool:
        """Whether it is neither a canned sentence of an earlier release, nor addressed to another persona."""
        if record.source == "ai" and record.content in self._plain_sentences:
            return False
        return persona is None or records.persona_of(record) in {None, persona}

    async def _recalled(self, task: Task, conversation: Sequence[MemoryRecord], persona: str | None) -> list[str]:
        if self._recall is None:
            return []
        shown = {record.metadata.task_id for record in conversation if record.metadata.task_id}
        return await self._recall.about(task.user_id, task.content, shown=shown, persona=persona)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, ModelRefused) and error.concerns_conversation:
            # One user's conversation must not mark the model as failed for all users.
            _LOG.warning("model_failed", reason=str(error), in_a_row=self._failures)
            return
        self._failures += 1
        if self._failures >= _FAILURES_BEFORE_REST:
            self._resting_until = asyncio.get_running_loop().time() + _REST_SECONDS
        self._failure = str(error) or "took longer than answer.timeout_seconds, or than the user waits"
        _LOG.warning("model_failed", reason=self._failure, in_a_row=self._failures)

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
                turns = [*_turn(record, spoken), *turns]
        return [
            {"role": "system", "content": system},
            *(wording.recalled(recalled, spoken) if recalled else ()),
            *turns,
            {"role": "user", "content": task.content},
        ]


def _turn(record: MemoryRecord, spoken: Language) -> list[Message]:
    if records.is_summary(record):
        return wording.summarised(record.content, spoken)
    return [{"role": "assistant" if record.source == "ai" else "user", "content": record.content}]
