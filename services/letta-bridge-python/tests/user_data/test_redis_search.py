"""The last search finds a user in any key of the project, known or not, and mistakes nobody else for them."""

from __future__ import annotations

import json

import pytest

from letta_bridge.settings import BridgeSettings
from letta_bridge.user_data.redis_search import RedisSearch, mentions

Q = "{letta_requests}:"


@pytest.mark.parametrize(
    "item",
    [
        b"ada",
        b"bridge+\nada\n1 1 1\n{}",
        b'{"user_id":"ada"}',
        b'{"turn":{"user_id":"ada"}}',
        b'[{"user_id":"ada"},{"user_id":"bob"}]',
        b'{"code":"malformed","user_id":"ada"}\n\xff not json',
        json.dumps({"payload": json.dumps({"user_id": "ada"})}).encode(),
    ],
)
def test_what_names_a_user_is_found(item):
    assert mentions(item, "ada")
    assert not mentions(item, "ad")


@pytest.mark.parametrize(
    "item",
    [b"", b"ada2", b'{"content":"ada"}', b'{"user_id":"adaa"}', b"\xff", b"[", b'{"user_id":{"a":1}}', b"[" * 9000],
)
def test_what_does_not_is_not(item):
    assert not mentions(item, "ada")


def test_a_number_is_the_same_user_as_its_text():
    assert mentions(b'{"user_id":42}', "42")
    assert not mentions(b'{"user_id":true}', "True")


PLACES = {
    f"{Q}missed:ada": "list",
    f"{Q}reply:ada:t1": "string",
    f"{Q}rate:ada": "string",
    f"{Q}creating:ada:default": "string",
    f"{Q}lane:ada~again:0017-1": "list",
    f"{Q}fallback:7-1": "string",
    f"{Q}replies": "stream",
    f"{Q}journal": "stream",
    f"{Q}dead": "list",
    f"{Q}turns": "hash",
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

ESCAPED = (f"{Q}reply:", f"{Q}creating:")


async def put(client, key, kind, user):
    record = json.dumps({"user_id": user, "content": "x"})
    match kind:
        case "list":
            await client.lpush(key, record)
        case "string":
            await client.set(key, record)
        case "hash":
            await client.hset(key, f"field of {user}", record)
        case "hash field":
            await client.hset(key, user, 5)
        case "set":
            await client.sadd(key, record)
        case "zset":
            await client.zadd(key, {record: 1})
        case "stream":
            await client.xadd(key, {"reply": record})


@pytest.mark.integration
async def test_a_user_is_found_in_every_kind_of_key(client):
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
async def test_users_whose_ids_look_alike_are_told_apart(client, user):
    search = RedisSearch(client, BridgeSettings())
    others = {"a", "a:b", "a%3Ab", "*", "a*", "[a]", "b"} - {user}
    await client.hset(f"{Q}choices", mapping={"complete": "1", "generation": "a", "changes": "3"})
    for other in others:
        for key, kind in PLACES.items():
            escaped = other.replace("%", "%25").replace(":", "%3A") if key.startswith(ESCAPED) else other
            await put(client, key.replace(":ada", f":{escaped}"), kind, other)
    assert await search.find(user) == []


@pytest.mark.integration
async def test_the_hold_and_what_waits_for_its_end_are_no_leftover(client):
    search = RedisSearch(client, BridgeSettings())
    await client.hset(f"{Q}held", "ada", "1 1 1 x erasure")
    await client.lpush("letta_requests", b'{"user_id":"ada"}')
    await client.lpush(f"{Q}lane:ada", b'1 0 1\n{"user_id":"ada"}')
    await client.lpush(f"{Q}ready", "ada")
    assert await search.find("ada") == []
    await client.hset(f"{Q}held", "bob", "1 1 1 x ada")
    await client.hset(f"{Q}lanes", "ada", "1-1")
    assert await search.find("ada") == [f"{Q}lanes"]
