"""Following the stream of replies over a Redis that goes away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.reply_stream import BEGINNING, ReplyStream
from local_stack.fixtures import ProxyFactory
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import RedisClient, connect

pytestmark = pytest.mark.integration
KEYS = Keys("letta_requests")


async def test_pages_are_joined_without_a_gap(client: RedisClient) -> None:
    for number in range(450):
        await client.xadd(KEYS.replies, {"reply": str(number)})
    found = [entry async for entry in ReplyStream(client, KEYS).after(BEGINNING)]
    assert [int(entry.reply) for entry in found] == list(range(450))
    newest = await ReplyStream(client, KEYS).newest(2)
    assert newest == found[-2:]


async def test_a_follower_misses_nothing_while_redis_is_unavailable(
    client: RedisClient, tcp_proxy: ProxyFactory, redis_url: str
) -> None:
    await client.xadd(KEYS.replies, {"reply": "before"})
    proxy = tcp_proxy(redis_url)
    behind = connect(RedisSettings(url=proxy.url), name="follower", timeout=10)
    lost = asyncio.Event()
    following: Any = ReplyStream(behind, KEYS).follow(BEGINNING, away=lambda _: lost.set())
    assert (await anext(following)).reply == b"before"
    following_on = asyncio.create_task(anext(following))
    proxy.refuse()
    await lost.wait()
    await client.xadd(KEYS.replies, {"reply": "meanwhile"})
    proxy.resume()
    assert (await following_on).reply == b"meanwhile"
    await following.aclose()
    await behind.aclose()


async def test_a_cancellation_that_a_connection_swallowed_still_ends_the_following() -> None:
    class Swallowing:
        """A client that answers a cancelled read as if nothing had come."""

        def __init__(self) -> None:
            self.reading = asyncio.Event()

        async def xread(self, *_: Any, **__: int) -> Any:
            self.reading.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return []

    swallowing: Any = Swallowing()
    following = asyncio.ensure_future(anext(ReplyStream(swallowing, KEYS).follow(BEGINNING)))
    await swallowing.reading.wait()
    following.cancel()
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await following
