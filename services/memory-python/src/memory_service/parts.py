"""Publishes an answer piece by piece, while the model writes it."""

from __future__ import annotations

import asyncio
from typing import Final

from redis.exceptions import ResponseError

from shared_utils.contracts.messages import AnswerPart, dump
from shared_utils.observability import logs
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient

_LOG: Final = logs.get(__name__)
_FAILURES: Final[tuple[type[Exception], ...]] = (*CONNECTION_ERRORS, ResponseError)


class Parts:
    """The pieces of one answer, in order; those that come while one is published go together.

    Args:
        client: publishes.
        channel: of the answer.
    """

    def __init__(self, client: RedisClient, channel: str) -> None:
        self._client = client
        self._channel = channel
        self._said = 0
        self._waiting = ""
        self._publishing: asyncio.Task[None] | None = None

    def say(self, text: str) -> None:
        """Publish the next piece."""
        self._waiting += text
        if self._publishing is None:
            self._publishing = asyncio.create_task(self._publish(), name="answer-parts")

    async def _publish(self) -> None:
        try:
            while self._waiting:
                part, self._waiting = AnswerPart(part=self._waiting, at=self._said), ""
                self._said += len(part.part)
                await self._client.publish(self._channel, dump(part))
        except _FAILURES as error:  # the answer itself comes later, and is not lost
            _LOG.warning("answer_part_lost", kind=type(error).__name__)
        finally:
            self._publishing = None
