"""The daemon under what nobody should send it, and under more than anybody can answer at once."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from local_stack.fixtures import BridgeFactory, DoubleFactory

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("load")]  # each alone fills a core

HOSTILE = int(os.environ.get("HOSTILE_PAYLOADS", "40000"))
"""Multiple of 2000. Each run draws others, so that many runs see more than a long one."""
TASKS, IN_FLIGHT, USERS = 20_000, 2_000, 4_000
AT_ONCE = IN_FLIGHT * 9 // 10
"""The double of Letta answers nobody until it has so many turns: a bridge that held fewer would never end the first."""


@pytest.fixture
def observe(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    observer = request.getfixturevalue("make_observer")(redis_url)
    yield observer
    observer.client.close()


def hostile(random_: Any, number: int) -> Any:
    """One payload that a broken, careless or malicious producer might push."""
    task_id = f"h{number}"
    good = {"task_id": task_id, "user_id": f"u{number % 50}", "content": "你好"}
    kind = random_.randrange(16)
    if kind == 0:
        return random_.randbytes(random_.randrange(200))
    if kind == 1:
        return json.dumps(good, ensure_ascii=False).encode()[: random_.randrange(60)]
    if kind == 2:
        return random_.choice([b"", b"null", b"[]", b"{}", b"0", b'"x"', b"\xef\xbb\xbf{}", b"NaN", b"{" * 300])
    if kind == 3:
        depth = random_.choice([20, 1_100, 50_000])
        return b'{"task_id":"%s","x":' % task_id.encode() + b"[" * depth + b"]" * depth + b"}"
    if kind == 4 and number % 10 == 0:
        return json.dumps({**good, "content": "x" * random_.choice([300_000, 262_100])}).encode()
    field = random_.choice(["task_id", "user_id", "content", "meta", "type", "input_file", "timestamp", "source"])
    value = random_.choice(
        [
            None, 0, -1, 1e308, 10**30, True, [], {}, ["a"], {"a": {"b": 1}}, "", " ", "\0", "a\nb", "../../etc/passwd",
            "x" * 5_000, "{letta_requests}:turns", "*", "%", ":", "\u202e", "🏴‍☠️", {"memory_type": 7},
            {"memory_type": "?"},
        ]
    )  # fmt: skip
    return json.dumps({**good, field: value}, ensure_ascii=random_.random() < 0.5).encode()


def test_tens_of_thousands_of_hostile_payloads_end_as_answers_or_dead_letters(
    observe: Any, redis_url: str, letta_double: DoubleFactory, bridge_factory: BridgeFactory
) -> None:
    seed = random.randrange(2**32)
    random_ = random.Random(seed)
    limits = {"MAX_CONCURRENT_REQUESTS": "2000", "LETTA_BRIDGE_QUEUE_DEAD_BYTES": str(2**30)}  # every letter is kept
    bridge = bridge_factory(redis_url, letta_double().url, FALLBACK_TIMEOUT_SECONDS="0.5", LOG_LEVEL="error", **limits)
    pid = bridge.pid
    for start in range(0, HOSTILE, 2_000):
        observe.client.lpush("letta_requests", *[hostile(random_, start + offset) for offset in range(2_000)])
    observe.wait_settled(HOSTILE, timeout=400)
    counters = observe.counters()
    assert counters["taken"] == HOSTILE, seed
    assert counters["settled:dead"] == observe.client.llen("{letta_requests}:dead"), seed
    assert (bridge.running, bridge.pid) == (True, pid), bridge.log_tail()
    codes = Counter(letter["code"] for letter in observe.dead())
    assert codes["internal"] == 0, (seed, [letter for letter in observe.dead() if letter["code"] == "internal"][:3])
    assert counters["settled:letta"] > 0
    observe.push("ada", "after", "still there?")
    deadline = time.monotonic() + 30
    while (reply := observe.reply("ada", "after")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert reply["source"] == "letta"
    assert httpx.get(f"{bridge.url}/livez").status_code == 200


def test_memory_stays_flat_with_two_thousand_slow_turns_in_flight(
    observe: Any, redis_url: str, letta_double: DoubleFactory, bridge_factory: BridgeFactory
) -> None:
    letta = letta_double(latency=1.0, gather=AT_ONCE).url
    # On a machine that is busy otherwise, two thousand turns at once are late; how late is not the question here. The
    # breaker is kept shut: it would open while nobody is answered and a few look-ups are late.
    patience = {"LEASE_SECONDS": "600", "LETTA_TIMEOUT_SECONDS": "600", "REPLY_DEADLINE_SECONDS": "600"}
    patience["LETTA_BRIDGE_LETTA_BREAKER_FAILURES"] = "1000000"
    bridge = bridge_factory(redis_url, letta, MAX_CONCURRENT_REQUESTS=str(IN_FLIGHT), LOG_LEVEL="error", **patience)
    process = psutil.Process(bridge.pid)
    pipeline = observe.client.pipeline(transaction=False)
    for number in range(TASKS):
        task = {"task_id": str(number), "user_id": f"u{number % USERS}", "content": "你好"}
        pipeline.lpush("letta_requests", json.dumps(task))
    pipeline.execute()
    resident = []
    deadline = time.monotonic() + 560  # pytest ends a test after ten minutes
    while (settled := observe.settled()) < TASKS:
        assert time.monotonic() < deadline, observe.counters()
        resident.append((settled, process.memory_info().rss / 2**20))
        time.sleep(0.2)
    assert observe.counters()["settled:letta"] == TASKS
    assert httpx.get(f"{letta}/seen").json()["most_at_work"] >= AT_ONCE
    middle = [rss for settled, rss in resident if TASKS * 0.4 <= settled < TASKS * 0.6]
    end = [rss for settled, rss in resident if settled >= TASKS * 0.8]
    assert max(end) < max(middle) * 1.1 + 5, (max(middle), max(end))
    assert max(end) < 400
    print(f"\nresident memory: {max(middle):.0f} MiB in the middle, {max(end):.0f} MiB at the end")  # noqa: T201  # the figure
