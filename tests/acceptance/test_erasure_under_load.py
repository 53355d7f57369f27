"""Erasing a user while everybody talks, and while parts are killed: one outcome for each task, and nothing left.

Real bridges, memory-python, Valkey and PostgreSQL; of Letta the double, which is quick, can be killed and keeps agents.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from local_stack.fixtures import BridgeFactory, DoubleFactory, MemoryFactory, ProxyFactory
from local_stack.programs import program

pytestmark = pytest.mark.acceptance

CANARY = "kanarienvogel"
ADA = "ada:%*"
OTHERS = [f"other-{number}" for number in range(6)]
QUICK = {
    "LEASE_SECONDS": "3",
    "LETTA_TIMEOUT_SECONDS": "5",
    "REPLY_DEADLINE_SECONDS": "12",
    "FALLBACK_TIMEOUT_SECONDS": "4",
}


class Product:
    """Everybody who talks, and everything that is answered."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url, socket_timeout=20)
        self.pushed: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self.answers: list[dict[str, Any]] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._ear = self.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis does not type it
        self._ear.subscribe("letta_responses")
        self._ear.get_message(timeout=5)
        self._spawn(self._listen)

    def push(self, user: str, content: str) -> str:
        task_id = f"t{next(self._numbers)}"  # it stands in logs: a user's name in it would, too
        self.pushed[task_id] = user
        self.client.lpush("letta_requests", json.dumps({"task_id": task_id, "user_id": user, "content": content}))
        return task_id

    def talk(self, user: str, words: str, every: Any) -> None:
        """Keep saying that until the end."""

        def say() -> None:
            while not self._over.wait(every):
                self.push(user, words)

        self._spawn(say)

    def stop_talking(self) -> None:
        self._over.set()
        for thread in self._threads[1:]:
            thread.join()

    def outcomes(self, user: str) -> dict[str, Any]:
        """Task id → what was published for it."""
        found: dict[str, Any] = {}
        for answer in list(self.answers):
            if self.pushed.get(answer["task_id"]) == user:
                found.setdefault(answer["task_id"], []).append(answer.get("code") or answer["source"])
        return found

    def unanswered(self) -> Any:
        return self.pushed.keys() - {answer["task_id"] for answer in list(self.answers)}

    def close(self) -> None:
        self.stop_talking()
        self._threads[0].join(0.1)
        self._ear.close()
        self.client.close()

    def _spawn(self, work: Any) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        try:
            for message in self._ear.listen():
                self.answers.append(json.loads(message["data"]))
        except (redis.RedisError, ValueError, OSError, AttributeError):
            return


@pytest.fixture
def product(redis_url: str) -> Iterator[Product]:
    product = Product(redis_url)
    yield product
    product.close()


@pytest.fixture
def double(letta_double: DoubleFactory, tmp_path: Path) -> Any:
    return letta_double(tmp_path / "letta.db", latency=0.1)


@pytest.fixture
def bridges(bridge_factory: BridgeFactory, redis_url: str, double: Any, postgres_url: str) -> list[Any]:
    return [bridge_factory(redis_url, double.url, DATABASE_URL=postgres_url, **QUICK) for _ in range(2)]


@pytest.fixture
def command(command_of: Callable[..., Any], bridges: list[Any]) -> Any:
    return command_of(bridges[0])


@pytest.fixture
def begin(bridges: list[Any]) -> Iterator[Callable[..., Any]]:
    """Start ``letta-bridge ARGUMENTS`` and leave it running."""
    started = []

    def run(*arguments: Any) -> Any:
        started.append(
            subprocess.Popen(
                [program("letta-bridge"), *arguments],
                env=bridges[0].environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def place(place_of: Any, product: Product, postgres_url: str, tmp_path: Path, double: Any) -> Any:
    return place_of(product.client, [postgres_url], [tmp_path])


def erased(command: Any, user: str = ADA) -> Any:
    """Run an erasure to its end; its report."""
    code, out, err = command("user", "erase", user, "--yes", "--json", timeout=300)
    assert out, err
    report = json.loads(out)
    assert (code, report["complete"]) == (0, True), (report, err)
    return report


def held(place: Any, *words: Any) -> set[Any]:
    """Where these are, but for the double's own file, which keeps what is deleted in its free pages."""
    return {name for name in place.holding(*words) if not name.startswith("file letta.db")}


def settled(product: Any, until: Any) -> None:
    until(lambda: not product.unanswered(), "tasks without an outcome", 120)


def test_sixty_tasks_wait_two_operators_erase_and_every_user_continues_talking(
    product: Product,
    bridges: list[Any],
    memory_factory: MemoryFactory,
    redis_url: str,
    command: Any,
    begin: Callable[..., Any],
    place: Any,
    until: Callable[..., Any],
) -> None:
    memory_factory(redis_url)
    for number in range(60):
        product.push(ADA, f"{CANARY} {number}")
    for user in OTHERS:
        product.talk(user, f"I am {user}", 0.1)
    until(lambda: len(product.outcomes(ADA)) >= 3, "nobody answers")
    product.talk(ADA, f"{CANARY} goes on", 0.05)
    first, second = begin("user", "erase", ADA, "--yes", "--json"), begin("user", "erase", ADA, "--yes", "--json")
    for process in (first, second):
        out, err = process.communicate(timeout=300)
        assert out, err
        report = json.loads(out)
        left = {name: count for name, count in report["left"].items() if count}
        assert (process.returncode, left, report["elsewhere"], report["unreachable"]) == (0, {}, [], {}), err
    product.stop_talking()
    settled(product, until)
    ends = product.outcomes(ADA)
    assert all(len(outcomes) == 1 for outcomes in ends.values()), ends
    kinds = Counter(outcome for outcomes in ends.values() for outcome in outcomes)
    assert kinds["erased"] >= 50, kinds
    assert kinds["letta"] >= 3, kinds
    for user in OTHERS:
        assert {tuple(outcomes) for outcomes in product.outcomes(user).values()} == {("letta",)}
    erased(command)
    assert held(place, CANARY, ADA) == set()
    assert not product.client.exists("{letta_requests}:held")


def test_erasures_killed_anywhere_are_gone_on_with(
    product: Product, bridges: list[Any], command: Any, begin: Callable[..., Any], place: Any, until: Callable[..., Any]
) -> None:
    seed = random.Random(7)
    for user in (ADA, *OTHERS):
        for number in range(3):
            product.push(user, f"{CANARY if user == ADA else user} {number}")
    settled(product, until)
    for _ in range(4):
        product.push(ADA, f"{CANARY} again")
        process = begin("user", "erase", ADA, "--yes")
        time.sleep(0.4 + seed.random() * 1.2)
        process.kill()
        process.communicate()
        command("user", "release", ADA)
    product.push(OTHERS[0], "still here")
    settled(product, until)
    erased(command)
    assert held(place, CANARY, ADA) == set()
    assert {tuple(outcomes) for outcomes in product.outcomes(OTHERS[0]).values()} == {("letta",)}


def test_a_killed_erasures_hold_is_taken_over(
    product: Product, bridges: list[Any], command: Any, begin: Callable[..., Any], until: Callable[..., Any]
) -> None:
    product.push(ADA, CANARY)
    settled(product, until)
    double_slow = begin("user", "erase", ADA, "--yes")
    until(lambda: product.client.exists("{letta_requests}:held"), "nothing is held")
    double_slow.kill()
    double_slow.communicate()
    code, out, _ = command("lanes", "--json")
    assert code == 0
    assert [hold["lane"] for hold in json.loads(out)["held"]] in ([ADA], [])
    assert erased(command)["complete"]


def test_with_letta_unavailable_the_rest_goes_and_the_user_is_served_again(
    product: Product,
    bridges: list[Any],
    memory_factory: MemoryFactory,
    redis_url: str,
    command: Any,
    double: Any,
    place: Any,
    until: Callable[..., Any],
) -> None:
    memory_factory(redis_url)
    product.push(ADA, f"{CANARY} one")
    settled(product, until)
    double.kill()
    code, out, err = command("user", "erase", ADA, "--yes", "--json", timeout=300)
    report = json.loads(out)
    assert (code, report["complete"], list(report["unreachable"])) == (1, False, ["agents in Letta"]), (report, err)
    assert held(place, CANARY) == set()
    task = product.push(ADA, f"{CANARY} two")
    until(lambda: product.outcomes(ADA).get(task), "the user is still held")
    double.start()
    double.wait_ready()
    erased(command)
    assert held(place, CANARY, ADA) == set()


def test_with_the_database_unavailable_nothing_is_erased_and_it_can_be_run_again(
    product: Product,
    bridge_factory: BridgeFactory,
    redis_url: str,
    double: Any,
    postgres_url: str,
    tcp_proxy: ProxyFactory,
    command_of: Callable[..., Any],
    until: Callable[..., Any],
) -> None:
    proxy = tcp_proxy(postgres_url)
    bridge = bridge_factory(redis_url, double.url, DATABASE_URL=proxy.url, DB_CONNECTION_TIMEOUT="1", **QUICK)
    command = command_of(bridge)
    product.push(ADA, CANARY)
    settled(product, until)
    proxy.refuse()
    code, _, err = command("user", "erase", ADA, "--yes", "--json", timeout=300)
    assert (code, "Traceback" in err) == (1, False), err
    assert product.client.exists("{letta_requests}:replies")
    assert not product.client.exists("{letta_requests}:held")
    proxy.resume()
    assert erased(command)["removed"]["agents"] == 1


def test_a_frozen_memory_python_remembers_nothing_when_it_thaws(
    product: Product,
    bridges: list[Any],
    memory_factory: MemoryFactory,
    redis_url: str,
    command: Any,
    double: Any,
    place: Any,
    until: Callable[..., Any],
) -> None:
    memory = memory_factory(redis_url)
    double.kill()
    product.push(ADA, f"{CANARY} warm")
    until(lambda: product.outcomes(ADA), "nobody answers")
    claimed = "memory:{user_input_queue}:processing:*"
    for number in range(200):
        task = {"task_id": f"m{number}", "user_id": ADA, "content": f"{CANARY} {number}"}
        product.client.lpush("user_input_queue", json.dumps(task))
    until(lambda: list(product.client.scan_iter(match=claimed)) or not product.client.llen("user_input_queue"), "x")
    memory.pause()
    double.start()
    double.wait_ready()
    erased(command)
    memory.resume()
    time.sleep(2)  # for whatever it does now
    assert held(place, CANARY, ADA) == set()


def test_a_bridge_killed_with_the_turn_in_flight_is_outwaited(
    product: Product, bridges: list[Any], command: Any, double: Any, place: Any, until: Callable[..., Any]
) -> None:
    product.push(ADA, CANARY)
    settled(product, until)
    double.fail("hang", times=1, details={"seconds": 60.0})
    product.push(ADA, f"{CANARY} hangs")
    until(lambda: product.client.hexists("{letta_requests}:lanes", ADA), "no turn is in flight")
    for bridge in bridges:
        bridge.kill()
    bridges[1].start()
    bridges[1].wait_ready()
    erased(command)
    assert held(place, CANARY, ADA) == set()
