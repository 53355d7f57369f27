"""The health of this instance, for ``/readyz`` and ``/health``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from memory_service.answers import Answers
from memory_service.composer import Composer
from memory_service.keys import QueueKeys
from memory_service.outage import Outage
from memory_service.recall import StoredRecall
from memory_service.survey import last_survey, work_done
from shared_utils.observability.health import Check
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient
from shared_utils.redis.failures import explain

_CHECK_TIMEOUT_SECONDS: Final = 1.0


class Health:
    """A health source. Redis is required, a model is not."""

    def __init__(
        self,
        client: RedisClient,
        queue: QueueKeys,
        answers: Answers,
        composer: Composer,
        recall: StoredRecall | None,
        *,
        outage: Outage,
        instance: str,
    ) -> None:
        self._client = client
        self._queue = queue
        self._answers = answers
        self._composer = composer
        self._recall = recall
        self._outage = outage
        self._instance = instance
        self.stopping = False

    def own_checks(self) -> list[Check]:
        """Whether this instance is shutting down."""
        return [Check("accepting", not self.stopping, "stopping" if self.stopping else "taking tasks", required=True)]

    async def checks(self) -> list[Check]:
        """Redis, the model, and recall where it is on."""
        return [
            await self._redis(),
            Check("model", self._composer.model_ok, self._composer.model_state),
            *([Check("recall", self._recall.ok, self._recall.state)] if self._recall else []),
        ]

    async def summary(self) -> Mapping[str, Any]:
        """Counts; those from Redis are left out while it is away."""
        numbers: dict[str, Any] = {
            "service": "memory-python",
            "version": version("letta-bridge-memory"),
            "instance": self._instance,
            "answers_waiting": len(self._answers.receipts),
        }
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_SECONDS):
                numbers |= await work_done(self._client, self._queue)
                survey = await last_survey(self._client)
        except CONNECTION_ERRORS:
            return numbers
        return numbers | {"memory": survey.model_dump() if survey else None}

    async def _redis(self) -> Check:
        """Required if tasks cannot be taken; failures of other parts only degrade the service."""
        troubles = self._outage.troubles
        taking = troubles.get("queue")
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_SECONDS):
                await self._client.llen(self._queue.queue)
        except CONNECTION_ERRORS as error:
            taking = taking or explain(error)
        if taking is not None:
            return Check("redis", ok=False, detail=taking, required=True)
        others = "; ".join(f"{part}: {trouble}" for part, trouble in troubles.items())
        return Check("redis", ok=not others, detail=others or "processes commands")
