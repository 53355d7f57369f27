"""Subscriptions to Redis channels that come and go on one connection, and survive its loss."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from redis.asyncio.cluster import RedisCluster

from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient, close, retry_until_available, subscriber

_POLL_SECONDS: Final = 1.0
"""Maximum delay until the listener ends."""
_PAUSE_SECONDS: Final = 0.2
"""Between two tries to read while the connection is lost."""

_LISTEN_ERRORS: Final[tuple[type[Exception], ...]] = (*CONNECTION_ERRORS, RuntimeError)
"""RuntimeError is what redis-py raises where the connection was given up at that moment."""


class Subscription:
    """One listener on one channel, until :meth:`close`."""

    def __init__(self, listener: ChannelListener, channel: str, owner: str) -> None:
        self._listener = listener
        self.channel = channel
        self.owner = owner
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.ambiguous = False
        """Another owner subscribed to the same channel meanwhile, so a message may be meant for either."""

    async def close(self) -> None:
        """End the subscription; may be repeated."""
        await self._listener.leave(self)


class ChannelListener:
    """All subscriptions of one process.

    Args:
        client: used by nothing else; it is closed with the listener.
        near: a key; in a Cluster, the listener connects to the node that serves it.
        silent: a channel without messages, always subscribed to. Without a subscription, redis-py checks the connection
            before it subscribes, and reads the answer concurrently with the listener.
    """

    def __init__(self, client: RedisClient, near: str, silent: str) -> None:
        self._client = client
        self._near = near
        self._silent = silent
        self._pubsub: Any = None
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._task: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._closing = False

    async def subscribe(self, channel: str, owner: str) -> Subscription:
        """Receive the messages of ``channel`` from now on; waits while Redis is away.

        Args:
            channel: its name.
            owner: names what the messages are for; two owners on one channel are ambiguous.
        """
        subscription = Subscription(self, channel, owner)
        others = self._subscriptions.setdefault(channel, [])
        others.append(subscription)
        if len({one.owner for one in others}) > 1:
            for one in others:
                one.ambiguous = True
        try:
            await self._connect()
            await retry_until_available(lambda: self._pubsub.subscribe(channel))
        except BaseException:
            await self.leave(subscription)
            raise
        if self._task is None:
            self._task = asyncio.create_task(self._listen(), name="channel-listener")
        return subscription

    async def leave(self, subscription: Subscription) -> None:
        """End one subscription, and the channel's with its last one."""
        others = self._subscriptions.get(subscription.channel, [])
        if subscription not in others:
            return
        others.remove(subscription)
        if not others:
            del self._subscriptions[subscription.channel]
            with contextlib.suppress(*CONNECTION_ERRORS):
                if self._pubsub is not None:
                    await self._pubsub.unsubscribe(subscription.channel)

    async def close(self) -> None:
        """Stop listening, and give back the connection."""
        self._closing = True
        if self._task is not None:
            # Not cancelled, because redis-py sometimes swallows that. The loop checks once a second.
            await self._task
        if self._pubsub is not None:
            with contextlib.suppress(*CONNECTION_ERRORS):
                await self._pubsub.aclose()
        await close(self._client)

    async def _connect(self) -> None:
        async with self._connecting:
            if self._pubsub is None:
                self._pubsub = await retry_until_available(self._open)

    async def _open(self) -> Any:
        pubsub = await subscriber(self._client, self._near)
        await pubsub.subscribe(self._silent, *self._subscriptions)
        return pubsub

    async def _listen(self) -> None:
        while not self._closing:
            try:
                message = await self._pubsub.get_message(timeout=_POLL_SECONDS)
            except _LISTEN_ERRORS:
                await asyncio.sleep(_PAUSE_SECONDS)
                await self._move()
                continue
            if message is None:
                continue
            for subscription in self._subscriptions.get(message["channel"].decode(), []):
                subscription.messages.put_nowait(message["data"])

    async def _move(self) -> None:
        """Connect to the Cluster node that now serves the key, because redis-py keeps the failed one."""
        if isinstance(self._client, RedisCluster):
            with contextlib.suppress(*CONNECTION_ERRORS):
                gone, self._pubsub = self._pubsub, await self._open()
                await gone.aclose()
