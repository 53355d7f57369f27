"""What keys of Redis hold, read page by page, and names written so that a pattern means them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final, cast

from shared_utils.batches import PageSize
from shared_utils.redis_connection import RedisClient

_PAGE: Final = 500
_GLOB: Final = str.maketrans({char: f"\\{char}" for char in "*?[]\\^-"})


def glob_escaped(name: str) -> str:
    """The name as a pattern of SCAN that matches itself alone."""
    return name.translate(_GLOB)


async def list_items(client: RedisClient, key: str) -> AsyncIterator[bytes]:
    """All elements of a list, from the left.

    What is pushed on the left meanwhile makes some come twice; to remove elements, collect them first.
    """
    start, size = 0, PageSize(_PAGE)
    while page := cast("list[bytes]", await client.lrange(key, start, start + size.items - 1)):
        for item in page:
            yield item
        start += len(page)
        size.learn(len(page), sum(map(len, page)))


def key_items(client: RedisClient, key: bytes, kind: bytes) -> AsyncIterator[bytes]:
    """Everything a key holds: the value, or its elements, members, fields and values; of a stream the values.

    Args:
        client: whose.
        key: its name.
        kind: what TYPE says of it; nothing comes of a kind that is not known.
    """
    return _READERS.get(kind, _nothing)(client, key)


async def _nothing(_client: RedisClient, _key: Any) -> AsyncIterator[bytes]:
    items: tuple[bytes, ...] = ()
    for item in items:
        yield item


async def _string(client: RedisClient, key: Any) -> AsyncIterator[bytes]:
    value = await client.get(key)
    if isinstance(value, bytes):
        yield value


async def _hash(client: RedisClient, key: Any) -> AsyncIterator[bytes]:
    async for pair in client.hscan_iter(key, count=_PAGE):
        for item in pair:
            yield cast("bytes", item)


async def _set(client: RedisClient, key: Any) -> AsyncIterator[bytes]:
    async for member in client.sscan_iter(key, count=_PAGE):
        yield cast("bytes", member)


async def _sorted_set(client: RedisClient, key: Any) -> AsyncIterator[bytes]:
    async for member, _score in client.zscan_iter(key, count=_PAGE):
        yield cast("bytes", member)


async def _stream(client: RedisClient, key: Any) -> AsyncIterator[bytes]:
    last, size = "-", PageSize(_PAGE)
    while page := cast("list[tuple[bytes, dict[bytes, bytes]]]", await client.xrange(key, last, "+", size.items)):
        for _, fields in page:
            for value in fields.values():
                yield value
        last = f"({page[-1][0].decode()}"
        size.learn(len(page), sum(len(value) for _, fields in page for value in fields.values()))


_READERS: Final[dict[bytes, Callable[[RedisClient, Any], AsyncIterator[bytes]]]] = {
    b"string": _string,
    b"list": list_items,
    b"hash": _hash,
    b"set": _set,
    b"zset": _sorted_set,
    b"stream": _stream,
}
