"""The last search finds a user in any key of the project, known or not, and mistakes nobody else for them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from letta_bridge.request_queue.keys import Keys, user_lane
from letta_bridge.settings import BridgeSettings
from letta_bridge.user_data.redis_search import RedisSearch, mentions
from shared_utils.redis.connection import RedisClient

Q = "{letta_requests}:"


@pytest.mark.parametrize(
    "item",
    [
        b'{"user_id":"ada"}',
        b'{"turn":{"user_id":"ada"}}',
        b'[{"user_id":"ada"},{"user_id":"bob"}]',
        b'{"code":"malformed","user_id":"ada"}\n\xff not json',
        json.dumps({"payload": json.dumps({"user_id": "ada"})}).encode(),
    ],
)
def test_json_that_names_a_user_is_found(item: bytes) -> None:
    assert mentions(item, "ada")
    assert not mentions(item, "ad")


@pytest.mark.parametrize(
    "item",
    [
        b"",
        b"ada",
        b"1\nada\n",
        b'{"user_id":"bob","meta":{"user":"ada","lane":"ada"}}',
        b"ada2",
        b'{"content":"ada"}',
        b'{"user_id":"adaa"}',
        b"\xff",
        b"[",
        b'{"user_id":{"a":1}}',
        b"[" * 9000,
    ],
)
def test_json_that_names_no_user_is_not_found(item: bytes) -> None:
    assert not mentions(item, "ada")


def test_a_number_is_the_same_user_as_its_text() -> None:
    assert mentions(b'{"user_id":42}', "42")
    assert not mentions(b'{"user_id":true}', "True")


PLACES = {
    f"{Q}missed:ada": "list",
    f"{Q}reply:ada:t1": "string",
    f"{Q}stream:ada:t1": "stream",
    f"{Q}interrupts": "hash",
    "letta_control": "list",
    f"{Q}rate:ada": "string",
    f"{Q}creating:ada:default": "string",
    f"{Q}lane:ada~again:0017-1": "list",
    f"{Q}fallback:7-1": "string",
    f"{Q}replies": "stream",
    f"{Q}journal": "stream",
    f"{Q}dead": "list",
    f"{Q}turns": "turn",
    f"{Q}lanes": "lane",
    f"{Q}tokens:20000": "hash field",
    f"{Q}a_new_set": "set",
    f"{Q}a_new_zset": "zset",
    f"{Q}a_new_string": "string",
    "user_input_queue": "list",
    "memory:user_sessions:ada": "list",
    "memory:seen:{memory:user_sessions:ada}": "zset",
    "memory:summary_pause:memory:user_sessions:ada": "string",
    "memory:global_context": "list",
    "memory:{user_input_queue}:dead": "list",
    "memory:{user_input_queue}:processing:x": "hash",
    "memory:a_new_kind": "string",
}

ESCAPED = (f"{Q}reply:", f"{Q}stream:", f"{Q}creating:")


async def put(client: Any, key: str, kind: str, user: str) -> None:
    record = json.dumps({"user_id": user, "content": "x"})
    match kind:
        case "list":
            await client.lpush(key, record)
        case "string":
            await client.set(key, record)
        case "hash":
            await client.hset(key, f"field of {user}", record)
        case "turn":
            await client.hset(key, f"1-{user}", f"bridge+\n{user_lane(user)}\n1 1 1\n{{}}")
        case "lane":
            await client.hset(key, user_lane(user), "1-1")
        case "hash field":
            await client.hset(key, user, 5)
        case "set":
            await client.sadd(key, record)
        case "zset":
            await client.zadd(key, {record: 1})
        case "stream":
            await client.xadd(key, {"reply": record})


@pytest.mark.integration
async def test_a_user_is_found_in_every_kind_of_key(client: Any) -> None:
    search = RedisSearch(client, BridgeSettings())
    for key, kind in PLACES.items():
        await put(client, key.replace(":ada", ":bob"), kind, "bob")
    assert await search.find("ada") == []
    for key, kind in PLACES.items():
        await put(client, key, kind, "ada")
    assert await search.find("ada") == sorted(PLACES)


@pytest.mark.integration
@pytest.mark.parametrize(
    "user", ["a", "a:b", "a%3Ab", "*", "a*", "[a]", "reply", "~7", "", "user_id", "lanes", "held", "complete"]
)
async def test_users_whose_ids_look_alike_are_distinguished(client: Any, user: str) -> None:
    search = RedisSearch(client, BridgeSettings())
    others = {"a", "a:b", "a%3Ab", "*", "a*", "[a]", "b"} - {user}
    await client.hset(f"{Q}choices", mapping={"complete": "1", "generation": "a", "changes": "3"})
    for other in others:
        for key, kind in PLACES.items():
            escaped = other.replace("%", "%25").replace(":", "%3A") if key.startswith(ESCAPED) else other
            await put(client, key.replace(":ada", f":{escaped}"), kind, other)
    assert await search.find(user) == []


@pytest.mark.integration
async def test_search_ignores_the_hold_and_tasks_that_wait_for_its_end(client: RedisClient) -> None:
    search = RedisSearch(client, BridgeSettings())
    await client.hset(f"{Q}held", "ada", "1 1 1 x erasure")
    await client.lpush("letta_requests", b'{"user_id":"ada"}')
    await client.lpush(f"{Q}lane:ada", b'1 0 1\n{"user_id":"ada"}')
    await client.lpush(f"{Q}ready", "ada")
    assert await search.find("ada") == []
    await client.hset(f"{Q}held", "bob", "1 1 1 x ada")
    await client.hset(f"{Q}lanes", "ada", "1-1")
    assert await search.find("ada") == [f"{Q}lanes"]


ELSEWHERE = {
    "incoming": [],
    "lanes": {"bob": "7-1"},
    "ready": ["bob", "42"],
    "turns": {"7-1": 'host:17+\nbob\n7 1 1795\n{"user_id":"bob","meta":{"user":"8","lane":"persona"}}\n9'},
    "leases": {"7-1": 1795.0},
    "replies": None,
    "dead": [
        '{"code":"malformed","user_id":null,"lane":"~7","attempts":3}\n5',
        '{"code":"internal","user_id":"bob"}\n6',
    ],
    "counters": {"taken": "12", "settled:letta": "13"},
    "bridges": {"host:17": 1795.0},
    "erasures": {"0a" * 32: 1795.0},
    "erasures_followed": {"host:17": 1795.0},
    "paused": {"mode": "all", "since": "1795", "reason": "maintenance"},
    "journal": None,
    "journal_writer": "host:17",
    "choices": {"complete": "1", "generation": "14", "changes": "15"},
    "identity": "1f" * 16,
    "letta": "block-16",
    "tally_prefix": {"agent": "18", "memory": "19", "cause:quota": "20"},
    "call_prefix": "000000000021",
    "held": {"zoe": "1796 1795 1797 operator agent"},
    "open": {"179": "22"},
    "begun": {"7-1": 1795.0},
    "order": {"tasks": "35", "newest_ms": "1797"},
    "opt_ins": {"2d" * 20: 36.0},
    "lane_prefix": [],
    "reply_prefix": '{"user_id":"bob","user":"23"}',
    "missed_prefix": ['{"content":"24"}'],
    "fallback_prefix": "25",
    "handed_prefix": "1",
    "creating_prefix": "26",
    "stream_prefix": None,
    "interrupts": {"bob:37": '1798 38-1799\n{"type":"interrupt","user_id":"bob","task_id":"39","heard":{"seq":40}}'},
    "rate_prefix": "27",
    "tokens_prefix": {"": "28", "bob": "29"},
}
"""One value for each key of the queue: bob's, or nobody's. ``None``: a stream with a record of bob's."""
MEMORY = {
    "memory:cleanup": "1",
    "memory:survey_turn": "1",
    "memory:survey": '{"users":3,"messages":30}',
    "memory:{user_input_queue}:counters": {"settled": "31", "answered": "32"},
    "memory:{user_input_queue}:instances": {"memory": 1.0},
    "memory:summary_pause:memory:user_sessions:bob": "33",
}
ORDINARY = ("1", "agent", "memory", "all", "operator", "true", "null", "user", "user_id", "lane", "complete", "0")


async def put_value(client: Any, key: str, value: Any) -> None:
    if value is None:
        await client.xadd(key, {"reply": '{"user_id":"bob","text":"34"}', "35": "36"})
    elif isinstance(value, str):
        await client.set(key, value)
    elif isinstance(value, list):
        await client.lpush(key, *(value or ['{"user_id":"bob"}']))
    elif all(isinstance(score, float) for score in value.values()):
        await client.zadd(key, value)
    else:
        await client.hset(key, mapping=value)


@pytest.mark.integration
async def test_no_number_or_word_in_redis_passes_for_a_user_with_that_id(client: Any) -> None:
    keys = Keys("letta_requests")
    assert set(ELSEWHERE) | {"requests"} == set(keys.__dataclass_fields__)
    for name, value in ELSEWHERE.items():
        await put_value(client, getattr(keys, name) + ("bob" if name.endswith("_prefix") else ""), value)
    for key, remembered in MEMORY.items():
        await put_value(client, key, remembered)
    words = set(re.findall(r"[\w-]+", json.dumps([ELSEWHERE, MEMORY]))) | {*ORDINARY, *map(str, range(60))}
    search = RedisSearch(client, BridgeSettings())
    assert {word: found for word in words - {"bob"} if (found := await search.find(word))} == {}
    assert len(await search.find("bob")) > 5
    for word in ("1", "agent", "memory", "all", "~7", "~x"):
        for key, kind in {f"{Q}turns": "turn", f"{Q}lanes": "lane", f"{Q}tokens:1": "hash field"}.items():
            await put(client, key, kind, word)
            assert await search.find(word) == [key]
            await client.delete(key)
