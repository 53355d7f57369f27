"""Streamed replies: what is added to the model's own pace, and what a turn costs."""

from __future__ import annotations

import functools
import statistics
import time
from dataclasses import dataclass
from typing import Final

from bridge_bench import spoken
from bridge_bench.contenders import BRIDGE, RELAY, Contender
from bridge_bench.conversations import Conversations, HeardReply
from bridge_bench.errors import WorkerFailed
from bridge_bench.figure import Bars, Column, Figure
from bridge_bench.harness import Load
from bridge_bench.runs import Bench, Row, Sample, interleaved
from bridge_bench.usage import cpu_seconds, memory_mib

_P99_INDEX: Final = 98
_FILL_SECONDS: Final = 60.0
"""Within which all streams of the memory's measurement have begun, or never will."""
_FULL_SHARE: Final = 0.98
_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class _Level:
    """So many conversations at once.

    Attributes:
        streams: at once.
        tokens_per_second: of the model, for each stream.
        turns: of each conversation; the first one is to warm up.
    """

    streams: int
    tokens_per_second: float
    turns: int


_LEVELS: Final = (_Level(1, 30, 10), _Level(64, 30, 5), _Level(1_000, 4, 2))
_LARGE: Final = _Level(10_000, 0.2, 1)
_LARGE_SECONDS: Final = 12.0
"""How long the many streams speak: each has had some tokens then."""

FIGURE = Figure(
    "streaming",
    "Streamed replies",
    "So many users talk at once, each sends a task with `meta.stream`, hears the stream to its end, and sends the next "
    f"one. The stub's model says {len(spoken.TOKENS)} tokens in {spoken.SENTENCES} sentences, 30 tokens a second; with "
    "1 000 at once 4 a second each, because Redis, the model and the listener share the two cores. The column busy is "
    "the worker's share of one core. The relay is what one writes by hand: it takes a task from the list, POSTs it, "
    "cuts the text behind every end mark, and does XADD, EXPIRE and PUBLISH for each part, and nothing else: it "
    "keeps no order, survives no kill, fences nothing, and speaks thoughts and Markdown.\n\n"
    "The stub writes into the tokens when it wrote them. Added time is from the token that decides a sentence until a "
    "subscriber has its event. For the relay that is the token with the end mark. The bridge's is the one after it, "
    "because only what follows tells the end of a sentence from an abbreviation, a number or a quotation that goes on; "
    "the wait for it is in the column first sentence, which is counted from the push of the task, as is the whole "
    "reply. Each reply's last sentence, which the end of the stream decides, is not in the added time. First turns "
    "do not count. With one stream every token wakes the worker alone, and the bridge's turn has the 10 ms in it "
    "that the bridge takes in 2 s without any task. With 10 000 streams only memory is measured, while each says a "
    "token in 5 s.",
    (
        Column("p50", "added, p50 ms", "{:.2f}"),
        Column("p99", "p99 ms", "{:.2f}"),
        Column("first", "first sentence, s", "{:.2f}"),
        Column("whole", "whole reply, s", "{:.2f}"),
        Column("cpu_turn", "CPU ms a turn", "{:.2f}"),
        Column("cpu_event", "an event", "{:.2f}"),
        Column("redis_cpu_turn", "Redis CPU ms a turn", "{:.2f}"),
        Column("busy", "busy, %", "{:.0f}"),
        Column("mib", "MiB", "{:.0f}"),
    ),
    (
        Bars("streaming-p99", "Added time of a sentence, p99 in ms (less is better)", "p99", "{:.1f}"),
        Bars("streaming-cpu", "CPU ms of a streamed turn (less is better)", "cpu_turn", "{:.1f}"),
    ),
)


@dataclass(frozen=True)
class _Case:
    contender: Contender
    level: _Level

    @property
    def name(self) -> str:
        streams = self.level.streams
        return f"{self.contender.name}, {f'{streams:,} streams' if streams > 1 else 'one stream'}"


def run(bench: Bench) -> list[Row]:
    """A row for the bridge and one for the relay, for each number of streams."""
    rows: list[Row] = []
    for level in (*_LEVELS, *((_LARGE,) if bench.options.large else ())):
        cases = [_Case(contender, level) for contender in (BRIDGE, RELAY)]
        measure = _memory if level is _LARGE else _streaming
        measured = interleaved(
            bench, FIGURE.name, cases, functools.partial(measure, bench), name=lambda case: case.name
        )
        for row, case in zip(measured, cases, strict=True):
            rows.append(row | {"kind": case.contender.kind, "streams": level.streams})
    return rows


def streaming(bench: Bench, contender: Contender, *, streams: int, tokens_per_second: float, turns: int) -> Sample:
    """One round of one subject.

    Raises:
        WorkerFailed: it did not publish every sentence.
    """
    harness = bench.harness
    harness.settle()
    load = Load(streams * turns, streams, streams, streams)
    with (
        harness.stub(tokens_per_second=tokens_per_second) as stub,
        Conversations(harness.valkey.url, streams, turns) as conversations,
        harness.worker(contender, stub.url, load) as process,
    ):
        pids = (process.pid or 0, harness.valkey.pid or 0)
        marks: list[tuple[float, int, list[float]]] = []

        def mark() -> None:
            marks.append((time.monotonic(), conversations.events, [cpu_seconds(pid) for pid in pids]))

        replies = conversations.talk(lambda: process.running, mark)
        mark()
        mib = memory_mib(pids[0])
    (began, events, before), (ended, all_events, after) = marks
    counted = [reply for reply in replies if reply.turn]
    added = [seconds * 1000 for reply in counted for seconds in _added(contender, reply)]
    cpu, redis_cpu = after[0] - before[0], after[1] - before[1]
    return {
        "p50": statistics.median(added),
        "p99": statistics.quantiles(added, n=100)[_P99_INDEX],
        "first": statistics.median(reply.sentences[0][0] - reply.pushed for reply in counted),
        "whole": statistics.median(reply.ended - reply.pushed for reply in counted),
        "cpu_turn": cpu * 1000 / len(counted),
        "cpu_event": cpu * 1000 / (all_events - events),
        "redis_cpu_turn": redis_cpu * 1000 / len(counted),
        "busy": cpu * 100 / (ended - began),
        "mib": mib,
    }


def _streaming(bench: Bench, case: _Case) -> Sample:
    level = case.level
    return streaming(
        bench,
        case.contender,
        streams=level.streams,
        tokens_per_second=level.tokens_per_second,
        turns=level.turns,
    )


def _added(contender: Contender, reply: HeardReply) -> list[float]:
    """From the token that decides each sentence but the last, to the sentence's event; seconds."""
    texts = [text for _, text in reply.sentences]
    moments = [moment for moment, _ in reply.sentences[:-1]]
    if contender.kind == "bridge":
        decided = [spoken.began(text) for text in texts[1:]]
    else:
        decided = [spoken.ended(text) for text in texts[:-1]]
    return [moment - written for moment, written in zip(moments, decided, strict=True)]


def _memory(bench: Bench, case: _Case) -> Sample:
    """Resident memory once all streams have spoken for a while."""
    harness, level = bench.harness, case.level
    harness.settle()
    load = Load(level.streams, 0, level.streams, level.streams)
    with (
        harness.stub(tokens_per_second=level.tokens_per_second) as stub,
        Conversations(harness.valkey.url, level.streams, level.turns) as conversations,
        harness.worker(case.contender, stub.url, load) as process,
    ):
        conversations.begin()
        until = time.monotonic() + _FILL_SECONDS
        while (speaking := stub.stats()["in_flight"]) < level.streams * _FULL_SHARE:
            if time.monotonic() > until:
                raise WorkerFailed(f"{speaking:,} of {level.streams:,} streams began within {_FILL_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)
        time.sleep(_LARGE_SECONDS)
        if not process.running:
            raise WorkerFailed("the worker ended")
        return {"mib": memory_mib(process.pid or 0), "at_once": speaking}
