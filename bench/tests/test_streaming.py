"""The figure of streamed replies: how its text is cut, and one small round of the bridge and the relay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from bridge_bench import spoken
from bridge_bench.contenders import BRIDGE, RELAY, Contender
from bridge_bench.conversations import Conversations
from bridge_bench.errors import WorkerFailed
from bridge_bench.figures.streaming import streaming
from bridge_bench.harness import Load
from bridge_bench.runs import Bench
from shared_utils.speech.splitter import SentenceSplitter


def test_a_time_in_letters_can_be_read_out_of_a_sentence() -> None:
    now = time.monotonic()
    sentence = "".join(spoken.TOKENS[:10]).format(spoken.in_letters(now), spoken.in_letters(now + 1))
    assert spoken.began(sentence) == pytest.approx(now, abs=1e-6)
    assert spoken.ended(sentence) == pytest.approx(now + 1, abs=1e-6)


def test_the_bridge_decides_a_sentence_with_the_first_token_of_the_next_one() -> None:
    splitter = SentenceSplitter(first_characters=12)
    pieces = [splitter.add(token.format(spoken.in_letters(number))) for number, token in enumerate(spoken.TOKENS)]
    decided = [number for number, found in enumerate(pieces) if found]
    assert decided == [10, 20, 30, 40, 50]
    assert [len(found) for found in pieces if found] == [1] * 5
    sentences = [sentence for found in pieces for sentence in found] + splitter.end()
    assert [spoken.began(sentence) for sentence in sentences] == [0, *decided]


@pytest.fixture
def queue(bench: Bench) -> Iterator[Bench]:
    bench.harness.settle()
    yield bench
    bench.harness.settle()


@pytest.mark.acceptance
@pytest.mark.parametrize("contender", [BRIDGE, RELAY], ids=lambda contender: contender.name)
def test_a_round_counts_every_sentence(queue: Bench, contender: Any) -> None:
    sample = streaming(queue, contender, streams=4, tokens_per_second=100, turns=3)
    assert 0 < sample["p50"] <= sample["p99"]
    assert 0.05 < sample["first"] < sample["whole"]
    assert sample["mib"] > 10


@pytest.mark.acceptance
def test_a_worker_that_publishes_nothing_fails(queue: Bench) -> None:
    dying = Contender("dying", "floor", ("-c", "raise SystemExit('no such queue')"))
    with pytest.raises(WorkerFailed, match=r"the worker ended after 0 events.*no such queue"):
        streaming(queue, dying, streams=2, tokens_per_second=100, turns=2)


@pytest.mark.acceptance
def test_a_worker_that_cuts_elsewhere_fails(queue: Bench) -> None:
    script = (
        "import redis, json, bridge_bench.worker_side.tasks as t\n"
        "client = redis.Redis.from_url(t.REDIS_URL)\n"
        "while True:\n"
        "    task = json.loads(client.brpop([t.REQUESTS])[1])['task_id']\n"
        "    for kind in ('sentence', 'end'):\n"
        "        event = {'task_id': task, 'type': kind, 'text': 'All at once.'}\n"
        "        client.publish(f'task_stream:{task}', json.dumps(event))\n"
    )
    lazy = Contender("lazy", "floor", ("-c", script))
    with (
        Conversations(queue.harness.valkey.url, 2, 2) as conversations,
        queue.harness.worker(lazy, "http://127.0.0.1:9", Load(4, 2, 2, 2)) as process,
        pytest.raises(WorkerFailed, match="1 sentences were published for s-0, not 6"),
    ):
        conversations.talk(lambda: process.running, lambda: None)
