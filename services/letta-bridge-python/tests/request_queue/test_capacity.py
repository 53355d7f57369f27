"""What Redis says of its memory and disk, and what is made of it where it says less."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from letta_bridge.request_queue.capacity import capacity_of
from letta_bridge.request_queue.port import Capacity

if TYPE_CHECKING:
    from letta_bridge_tests.request_queue.conftest import RedisRig

MEMORY = b"# Memory\r\nused_memory:1000\r\nused_memory_human:1000B\r\nmaxmemory:4000\r\n"


def test_memory_limit_and_disk_are_read() -> None:
    assert capacity_of([5_000, b"", MEMORY, b"rdb_last_bgsave_status:ok\r\n"]) == (0.0, Capacity(1000, 4000, True))


@pytest.mark.parametrize("field", ["aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"])
def test_each_write_that_failed_shows(field: str) -> None:
    _, capacity = capacity_of([5_000, b"", MEMORY, f"loading:0\r\n{field}:err\r\n".encode()])
    assert capacity is not None
    assert not capacity.saves


def test_an_age_counts_from_the_entrys_id_and_is_never_negative() -> None:
    assert capacity_of([5_000, b"2000-3", MEMORY, b""])[0] == 3.0
    assert capacity_of([5_000, b"9000-0", MEMORY, b""])[0] == 0.0


@pytest.mark.parametrize("memory", [b"", b"# Memory\r\nused_memory:1000\r\n", b"used_memory:?\r\nmaxmemory:0\r\n"])
def test_server_without_info_has_unknown_capacity(memory: bytes) -> None:
    assert capacity_of([5_000, b"", memory, b""]) == (0.0, None)


@pytest.mark.integration
@pytest.mark.parametrize("rig", ["redis"], indirect=True)  # the queue in memory has no rights
async def test_a_user_without_the_right_to_info_still_gets_a_status(rig: RedisRig) -> None:
    queue = rig.bridge("a")
    assert (await queue.status()).capacity is not None
    assert (await queue.status()).capacity is not None
    capacity = (await queue.status()).capacity
    assert capacity is not None
    assert capacity.used_bytes > 0
    await rig.client.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        status = await queue.status()
    finally:
        await rig.client.execute_command("ACL", "SETUSER", "default", "+info")
    assert (status.capacity, status.depth) == (None, 0)
