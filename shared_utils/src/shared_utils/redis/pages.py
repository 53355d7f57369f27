"""What keys of Redis hold, read page by page, and names written so that a pattern means them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final, cast

from shared_utils.batches import PageSize
from shared_utils.redis.connection import RedisClient

_ITEMS_PER_PAGE: Final = 500
_MAX_OVERLAP: Final = 16
"""Elements of a list that are read again with the next page, at most."""
_MAX_ANCHORS: Final = 10_000
"""Elements, those read last, of which one has to be left for the next page to go on behind it."""
_GLOB: Final = str.maketrans({char: f"\\{char}" for char in "*?[]\\^-"})


def glob_escaped(name: str) -> str:
    """The name as a pattern of SCAN that matches itself alone."""
    return name.translate(_GLOB)


class _LastRead:
    """The last elements that were read of a list, to find where the next page goes on."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        """Hash of an element → how many were read before it; the last read come last."""
        self._count = 0
        self.tail: list[bytes] = []
        """The end of the last page, which the next one begins with if nothing has changed."""

    def fresh(self, page: list[bytes]) -> list[bytes] | None:
        """What of a page has not been read yet; None where nothing in it has."""
        if self.tail and page[: len(self.tail)] == self.tail:
            return page[len(self.tail) :]
        # Of equal elements the first: they come twice rather than not at all.
        read = [(self._places[hash(item)], -index) for index, item in enumerate(page) if hash(item) in self._places]
        return page[1 - max(read)[1] :] if read else None

    def add(self, page: list[bytes], fresh: list[bytes], overlap: int) -> None:
        for digest in map(hash, fresh):
            self._places.pop(digest, None)
            self._places[digest] = self._count
            self._count += 1
        for digest in list(self._places)[: max(0, len(self._places) - _MAX_ANCHORS)]:
            del self._places[digest]
        self.tail = page[-overlap:]


async def list_items(client: RedisClient, key: str) -> AsyncIterator[bytes]:
    """All elements of a list, from the left, also while others push to it and remove from it.

    Elements have no name but their position, which moves meanwhile. Each page therefore begins with the end of the one
    before; where that is not found, it is looked for further left. Some elements may come twice. To remove elements,
    collect them first.
    """
    start, back, size, last = 0, 0, PageSize(_ITEMS_PER_PAGE), _LastRead()
    while True:
        first, count = max(0, start - back), size.items + len(last.tail)
        page = cast("list[bytes]", await client.lrange(key, first, first + count - 1))
        fresh = last.fresh(page)
        if fresh is None and first > 0:
            back *= 2  # elements before this page have been removed
            continue
        for item in page if fresh is None else fresh:
            yield item
        if len(page) < count:
            return
        size.learn(len(page), sum(map(len, page)))
        last.add(page, page if fresh is None else fresh, min(_MAX_OVERLAP, -(-size.items // 8)))
        start, back = first + len(page), len(last.tail)


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
    async for pair in client.hscan_iter(key, count=_ITEMS_PER_PAGE):
        for item in pair:
            yield cast("bytes", item)


async def _set(client: RedisClient, key: Any) -> AsyncIterator[bytes]:
    async for member in client.sscan_iter(key, count=_ITEMS_PER_PAGE):
        yield cast("bytes", member)


async def _sorted_set(client: RedisClient, key: Any) -> AsyncIterator[bytes]:
    async for member, _score in client.zscan_iter(key, count=_ITEMS_PER_PAGE):
        yield cast("bytes", member)


async def _stream(client: RedisClient, key: Any) -> AsyncIterator[bytes]:
    last, size = "-", PageSize(_ITEMS_PER_PAGE)
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
