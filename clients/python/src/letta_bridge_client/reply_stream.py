"""A reply that comes in parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from letta_bridge_client.ending import end
from letta_bridge_client.events import Delta, End, Event, Sentence
from letta_bridge_client.interrupts import NOTHING_HEARD, Heard
from letta_bridge_client.reply import Reply


class ReplyStream:
    """The events of one reply: an iterator, and a context that stops listening at its end.

    The task is pushed, and listening begins, with the context or the first event. What comes while the caller is busy
    waits here: a slow caller delays nobody, and its time does not count.

    Args:
        user_id: whose task it is.
        task_id: its id.
        follow: puts events until the stream is over.
        interrupt: breaks the reply off.

    Attributes:
        reply: the whole reply, once ``End`` has come; before, and after an error, None.
    """

    def __init__(
        self,
        user_id: str,
        task_id: str,
        follow: Callable[[Callable[[Event], None]], Awaitable[None]],
        interrupt: Callable[[Heard | str | None], Awaitable[None]],
    ) -> None:
        self.user_id = user_id
        self.task_id = task_id
        self.reply: Reply | None = None
        self._follow = follow
        self._interrupt = interrupt
        self._events: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        """None stays at its end once the stream is over."""
        self._following: asyncio.Task[None] | None = None
        self._closed = False
        self._heard: Heard | None = None
        self._has_text = False
        """The caller has some text of the reply."""

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event.

        Raises:
            BridgeError: as :meth:`Bridge.ask`.
            StopAsyncIteration: the stream is over.
        """
        self._start()
        item = await self._events.get()
        if item is None:
            self._events.put_nowait(None)
            raise StopAsyncIteration
        if isinstance(item, Exception):
            raise item
        self._has_text = self._has_text or isinstance(item, Sentence | Delta)
        if isinstance(item, End):
            self.reply = item.reply
        return item

    async def aclose(self) -> None:
        """Stop listening; the turn goes on, and its reply is kept. May be repeated."""
        self._closed = True
        if self._following is not None:
            await end(self._following)
        self._events.put_nowait(None)

    def heard(self, sentence: Sentence, characters: int | None = None) -> None:
        """Note what the user has heard, for an interrupt: all sentences up to this one.

        Args:
            sentence: the one that was played.
            characters: of its ``text``, if it was not played to its end; 0 when its playing begins.
        """
        place = Heard(sentence.seq) if characters is None else Heard(sentence.seq - 1, characters)
        if self._heard is None or (place.seq, place.characters) > (self._heard.seq, self._heard.characters):
            self._heard = place

    async def interrupt(self, heard: Heard | str | None = None) -> None:
        """Break the reply off; ``Interrupted`` and ``End`` follow, if it was not complete before.

        The agent learns with the user's next message what was heard. Where nothing was noted with :meth:`heard`, it
        learns that nobody knows, unless the caller got no text of the reply yet.

        Args:
            heard: instead of what was noted.

        Raises:
            RedisUnavailable: as :meth:`Bridge.ask`.
        """
        if heard is None:
            heard = self._heard if self._heard is not None or self._has_text else NOTHING_HEARD
        await self._interrupt(heard)

    def _start(self) -> None:
        if self._following is None and not self._closed:
            self._following = asyncio.create_task(self._run(), name="letta-bridge-client-stream")

    async def _run(self) -> None:
        try:
            await self._follow(self._events.put_nowait)
        except Exception as error:  # noqa: BLE001  # the caller gets it
            self._events.put_nowait(error)
        finally:
            self._events.put_nowait(None)
