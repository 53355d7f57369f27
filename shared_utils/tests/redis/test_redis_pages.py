"""Lists that others change while they are read page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from shared_utils.config.settings import RedisSettings
from shared_utils.redis import pages as redis_pages
from shared_utils.redis.connection import RedisClient, close, connect
from shared_utils.redis.pages import list_items

pytestmark = pytest.mark.integration

KEY = "a list"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    client = connect(RedisSettings(url=redis_url), name="pages")
    await client.delete(KEY)
    yield client
    await client.delete(KEY)
    await close(client)


def elements(count: int) -> list[Any]:
    return [f"e{number}" for number in range(count)]


async def read(client: Any, change: Callable[..., Any] | None = None, *, behind: int = 600) -> list[Any]:
    """All elements; ``change`` runs once so many have been read."""
    found = []
    async for item in list_items(client, KEY):
        found.append(item.decode())
        if change is not None and len(found) == behind:
            await change()
    return found


@pytest.mark.parametrize("count", [0, 1, 8, 40, 168, 2000])
async def test_unchanged_list_is_read_completely(client: RedisClient, count: int) -> None:
    if count:
        await client.rpush(KEY, *elements(count))
    assert await read(client) == elements(count)


async def test_equal_elements_are_read_as_often_as_they_stand_there(client: Any) -> None:
    await client.rpush(KEY, *["same"] * 2000)
    assert await read(client) == ["same"] * 2000


@pytest.mark.parametrize("removed", [range(1), range(3, 400, 2), range(598, 600), range(590, 1000), range(600)])
async def test_no_element_is_missed_while_others_are_removed(client: Any, removed: range) -> None:
    await client.rpush(KEY, *elements(3000))
    gone = [f"e{number}" for number in removed]

    async def remove() -> None:
        for element in gone:
            await client.lrem(KEY, 1, element)

    found = await read(client, remove)
    assert set(elements(3000)) - set(gone) <= set(found)


async def test_no_element_is_missed_where_more_than_are_remembered_are_removed(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_pages, "_MAX_ANCHORS", 100)
    await client.rpush(KEY, *elements(3000))

    async def remove() -> None:
        await client.ltrim(KEY, 700, -1)

    assert set(elements(3000)[700:]) <= set(await read(client, remove))


@pytest.mark.parametrize("pushed", [1, 20, 5000])
async def test_no_element_is_missed_while_others_are_pushed_and_taken(client: Any, pushed: int) -> None:
    await client.rpush(KEY, *elements(3000))

    async def move() -> None:
        await client.lpush(KEY, *[f"new{number}" for number in range(pushed)])
        await client.rpop(KEY, 10)

    assert set(elements(2990)) <= set(await read(client, move))


async def test_reading_a_list_ends_despite_concurrent_pushes(client: RedisClient) -> None:
    await client.rpush(KEY, *elements(3000))
    found = 0
    async for _ in list_items(client, KEY):
        found += 1
        if not found % 100:
            await client.lpush(KEY, *[f"new{found}-{number}" for number in range(50)])
    assert found < 20_000
