"""One small round of the bridge and of each floor; peers need downloads, and are tried by running the benchmark."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bridge_bench import environments
from bridge_bench.ceiling import ceiling
from bridge_bench.contenders import BASELINES, BRIDGE, PEERS_BY_NAME, Contender
from bridge_bench.errors import BenchError, WorkerFailed
from bridge_bench.figures.throughput import described, throughput
from bridge_bench.runs import Bench, interleaved
from bridge_bench.worker_side import tasks

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("contender", [BRIDGE, *BASELINES], ids=lambda contender: contender.name)
def test_a_round_counts_every_task(bench: Bench, contender: Any) -> None:
    with bench.harness.stub() as stub:
        sample = throughput(bench, stub, contender)
        assert stub.stats()["turns"] == 250
    assert sample["tasks_per_second"] > 10
    assert sample["redis_cpu"] >= 0
    assert sample["cpu"] >= 0


def test_dead_worker_is_reported_in_its_row(bench: Bench) -> None:
    dying = Contender("dying", "floor", ("-c", "raise SystemExit('no such queue')"))
    with bench.harness.stub() as stub:
        rows = interleaved(
            bench, "throughput", (dying,), lambda one: throughput(bench, stub, one), name=lambda one: one.name
        )
    assert "the worker ended after 0 of 50 replies" in rows[0]["failed"]
    assert "no such queue" in rows[0]["failed"]


def test_a_worker_that_does_not_ask_letta_fails(bench: Bench) -> None:
    script = (
        "import redis, json, bridge_bench.worker_side.tasks as t\n"
        "client = redis.Redis.from_url(t.REDIS_URL)\n"
        "while True:\n"
        "    _, task = client.brpop([t.REQUESTS])\n"
        "    task = json.loads(task)\n"
        "    reply = {'task_id': task['task_id'], 'user_id': task['user_id'], 'response_text': 'made up'}\n"
        "    client.publish(t.RESPONSES, json.dumps(reply))\n"
    )
    lazy = Contender("lazy", "floor", ("-c", script))
    with bench.harness.stub() as stub, pytest.raises(WorkerFailed, match="250 were answered and 0 sent to Letta"):
        throughput(bench, stub, lazy)


def test_the_producer_of_a_peer_that_is_not_there_is_an_error(bench: Bench) -> None:
    nobody = Contender("nobody", "floor", producer="no_such_module")
    with pytest.raises(BenchError, match="no_such_module"):
        bench.harness.enqueue(nobody, 1, 1)


def test_stub_is_not_the_bottleneck(bench: Bench) -> None:
    with bench.harness.stub() as stub:
        turns, cpu = ceiling(stub)
        assert stub.stats()["turns"] > 1000
    assert turns > 1000
    assert 0 < cpu < 1


def test_row_has_its_ratio_to_the_bridge(bench: Bench) -> None:
    rows = [{"name": BRIDGE.name, "tasks_per_second": 50.0}, {"name": BASELINES[0].name, "tasks_per_second": 100.0}]
    fastest, slower = described(bench, rows)
    assert (fastest["name"], fastest["relative"], fastest["kind"]) == (BASELINES[0].name, 2.0, "floor")
    assert (slower["relative"], slower["order"]) == (1.0, "yes")


@pytest.mark.parametrize("peer", PEERS_BY_NAME.values(), ids=lambda peer: peer.name)
def test_a_peer_has_its_lock_and_its_application(peer: Any) -> None:
    folder = environments.PEERS / peer.folder
    assert (folder / f"{peer.producer}.py").exists()
    lock = (folder / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    assert "://" not in lock
    versions = environments.versions_of(peer.folder, peer.packages)
    assert re.fullmatch(r"(\S+ \d[\w.]*(, )?)+", versions)


def test_a_task_has_about_300_bytes() -> None:
    assert 250 < len(tasks.payload(123_456, 1000)) < 400
