from __future__ import annotations

import pytest

from scripted_model.faults import Dial, Fault, Faults, markers, without_markers


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x [[fail:429]]", Fault("fail", status=429)),
        ("x [[fail]]", Fault("fail", status=500)),
        ("[[empty]]", Fault("empty")),
        ("[[hang:5]]", Fault("hang", seconds=5)),
        ("[[drop]]", Fault("drop")),
        ("[[latency:250]]", Fault(delay=0.25)),
        ("[[latency:250]] [[fail:503]]", Fault("fail", status=503, delay=0.25)),
        ("[[pace:40]] [[latency:10]]", Fault(delay=0.01, pace=0.04)),
        ("[[pace]] [[cut]]", Fault("cut", pace=0.1)),
        ("[[fail:abc]] [[unknown]]", Fault()),
        ("plain", Fault()),
    ],
)
def test_a_marker_in_a_message_selects_a_fault(text: str, fault: Fault) -> None:
    assert Faults().decide(text, after_tool=False) == fault


def test_a_marker_runs_out_for_each_text_by_itself() -> None:
    faults = Faults()

    def actions(text: str) -> list[str | None]:
        return [faults.decide(text, after_tool=False).action for _ in range(3)]

    assert actions("a [[fail:500 once]]") == ["fail", None, None]
    assert actions("b [[fail:500 times=2]]") == ["fail", "fail", None]
    assert actions("c [[fail:500 times=2]]") == ["fail", "fail", None]


def test_fail_after_tool_waits_for_the_tool() -> None:
    faults = Faults()

    assert faults.decide("[[fail-after-tool:429 once]]", after_tool=False).action is None
    assert faults.decide("[[fail-after-tool:429 once]]", after_tool=True) == Fault("fail", status=429)
    assert faults.decide("[[fail-after-tool:429 once]]", after_tool=True).action is None


def test_markers_are_removed_from_messages() -> None:
    assert without_markers("I like tea [[fail:500 once]]") == "I like tea"
    assert without_markers("[[latency:5]] hello [[drop]] there [[1]]") == "hello there [[1]]"
    assert [marker.name for marker in markers("[[latency:5]] hello [[drop]]")] == ["latency", "drop"]


def _hits(dial: Dial, calls: int) -> list[int]:
    faults = Faults(dial)
    return [i for i in range(1, calls + 1) if faults.decide("x", after_tool=False).action]


def test_the_dial_hits_every_nth_call_and_only_so_many() -> None:
    assert _hits(Dial(action="fail", every=3), 7) == [3, 6]
    assert _hits(Dial(action="drop", next=2), 5) == [1, 2]
    assert _hits(Dial(action="drop", every=2, next=1), 6) == [2]


def test_a_rate_is_the_same_sequence_for_the_same_seed() -> None:
    first = _hits(Dial(action="fail", rate=0.3, seed=7), 1000)

    assert first == _hits(Dial(action="fail", rate=0.3, seed=7), 1000)
    assert first != _hits(Dial(action="fail", rate=0.3, seed=8), 1000)
    assert 200 < len(first) < 400


def test_a_marker_goes_before_the_dial_and_delays_add_up() -> None:
    faults = Faults(Dial(action="fail", status=500, latency_ms=100))

    fault = faults.decide("[[latency:50]] [[empty]]", after_tool=False)

    assert fault.action == "empty"
    assert fault.delay == pytest.approx(0.15)


def test_reset_is_back_to_the_start() -> None:
    faults = Faults(Dial(latency_ms=5))
    faults.set(Dial(action="fail"))
    faults.decide("[[drop once]]", after_tool=False)

    faults.reset()

    assert faults.dial == Dial(latency_ms=5)
    assert faults.decide("[[drop once]]", after_tool=False).action == "drop"


def test_the_slower_pace_counts() -> None:
    faults = Faults(Dial(pace_ms=50))
    texts = ("hello", "[[pace:20]] hello", "[[pace:80]] hello")
    assert [faults.decide(text, after_tool=False).pace for text in texts] == [0.05, 0.05, 0.08]
