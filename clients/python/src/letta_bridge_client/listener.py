"""All channels of one client on one connection, which is opened again when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError  # noqa: A004  # redis-py's name

from letta_bridge_client.ending import end
from letta_bridge_client.errors import RedisUnavailable
from letta_bridge_client.retrying import ERRORS, Outage

_READ_SECONDS: Final = 1.0
"""After which the connection is checked, if nothing came."""
_CONFIRM_SECONDS: Final = 5.0
"""What Redis may take to confirm a subscription before the connection counts as lost."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A message on a channel."""

    channel: str
    data: bytes


class Gap:
    """Stands for publications that may have been missed, because the connection was lost meanwhile."""


GAP: Final = Gap()


class Watch:
    """What happens on some channels from now on.

    Args:
        channels: their names.
    """

    def __init__(self, channels: tuple[str, ...]) -> None:
        self.channels = channels
        self.listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.events: asyncio.Queue[Publication | Gap] = asyncio.Queue()

    async def next(self, seconds: float) -> Publication | Gap | None:
        """The next event; None if there is none within ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self.events.get()
        return None


class Listener:
    """Subscriptions that come and go on one connection, which one task reads and writes in turn.

    redis-py's PubSub is not for two tasks: one that reads may give up or renew the connection on which another one
    writes.

    Args:
        opened: makes a new subscription, to nothing yet.
        prefix: begins the names of all channels.
        outage: of the same Redis.
    """

    def __init__(self, opened: Callable[[], Awaitable[PubSub]], prefix: str, outage: Outage) -> None:
        self._opened = opened
        self._outage = outage
        # Without any subscription, redis-py does not read.
        self._silent = f"{prefix}{uuid.uuid4()}"
        self._watches: dict[str, list[Watch]] = {}
        self._subscribed: dict[str, float] = {}
        """Channel → when Redis was asked for it, by the loop's clock."""
        self._confirmed: set[str] = set()
        self._reading: asyncio.Task[Any] | None = None
        self._task: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def watch(self, *channels: str) -> AsyncIterator[Watch]:
        """Listen to ``channels``; Redis has confirmed all when the block begins. Waits while Redis is away.

        Raises:
            RedisUnavailable: Redis refuses to be listened to.
        """
        watch = Watch(channels)
        for channel in channels:
            self._watches.setdefault(channel, []).append(watch)
        if self._confirmed.issuperset(channels):
            watch.listening.set_result(None)
        else:
            self._update_soon()
        try:
            await watch.listening
            yield watch
        finally:
            for channel in channels:
                self._watches[channel].remove(watch)
                if not self._watches[channel]:
                    del self._watches[channel]
                    self._update_soon()

    async def close(self) -> None:
        """Stop listening; whoever still waits for a subscription is cancelled."""
        if self._task is not None:
            await end(self._task)
        for watch in self._all():
            watch.listening.cancel()

    def _all(self) -> Iterator[Watch]:
        return itertools.chain.from_iterable(self._watches.values())

    def _update_soon(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve(), name="letta-bridge-client-listener")

    async def _serve(self) -> None:
        while True:
            try:
                await self._outage.outlast(self._listen)
            except RedisUnavailable as error:
                for watch in self._all():
                    if not watch.listening.done():
                        watch.listening.set_exception(error)
                return

    async def _listen(self) -> None:
        """Open a connection and serve it until it is lost.

        Raises:
            RedisError, RedisClusterException, OSError: it was lost, or refused.
        """
        self._subscribed, self._confirmed = {}, set()
        pubsub = await self._opened()
        try:
            while True:
                await self._update(pubsub)
                self._reading = asyncio.create_task(pubsub.get_message(timeout=_READ_SECONDS))
                await asyncio.wait([self._reading])
                reading, self._reading = self._reading, None
                if not reading.cancelled() and (message := reading.result()) is not None:
                    self._note(message)
                self._check_confirmations()
        finally:
            if self._reading is not None:
                await end(self._reading)
                self._reading = None
            self._confirmed = set()
            with contextlib.suppress(*ERRORS):
                await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py

    async def _update(self, pubsub: PubSub) -> None:
        """Bring the subscriptions up to date."""
        wanted = {self._silent, *self._watches}
        if gone := self._subscribed.keys() - wanted:
            for channel in gone:
                del self._subscribed[channel]
            self._confirmed -= gone
            await pubsub.unsubscribe(*gone)
        if added := [channel for channel in (self._silent, *self._watches) if channel not in self._subscribed]:
            now = asyncio.get_running_loop().time()
            self._subscribed |= dict.fromkeys(added, now)
            await pubsub.subscribe(*added)

    def _note(self, message: dict[str, Any]) -> None:
        channel = message["channel"]
        name = channel.decode() if isinstance(channel, bytes) else str(channel)
        watches = self._watches.get(name, ())
        if message["type"] == "message":
            data = message["data"]
            said = Publication(name, data if isinstance(data, bytes) else str(data).encode())
            for watch in watches:
                watch.events.put_nowait(said)
        elif message["type"] == "subscribe" and name in self._subscribed:
            self._outage.error = None
            self._confirmed.add(name)
            for watch in watches:
                if not self._confirmed.issuperset(watch.channels):
                    continue
                if watch.listening.done():
                    watch.events.put_nowait(GAP)
                else:
                    watch.listening.set_result(None)

    def _check_confirmations(self) -> None:
        """Give the connection up if Redis does not confirm a subscription.

        Raises:
            ConnectionError: it did not.
        """
        latest = asyncio.get_running_loop().time() - _CONFIRM_SECONDS
        if any(asked < latest for channel, asked in self._subscribed.items() if channel not in self._confirmed):
            raise ConnectionError("Redis does not confirm a subscription")
