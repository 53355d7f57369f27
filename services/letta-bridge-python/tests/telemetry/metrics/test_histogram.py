"""The bridge's own histograms say what prometheus_client's say."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as LibraryHistogram

from letta_bridge.telemetry.metrics.histogram import Histogram

BUCKETS = (0.005, 0.1, 1, 2.5)
AMOUNTS = st.lists(st.one_of(st.sampled_from(BUCKETS), st.floats(0, 10)))


def both(*labels: Any) -> list[tuple[Any, ...]]:
    """Each with a registry of its own, and with the same name."""
    made = []
    for kind in (Histogram, LibraryHistogram):
        registry = CollectorRegistry()
        made.append((registry, kind("bridge_seconds", "Seconds.", labels, buckets=BUCKETS, registry=registry)))
    return made


def text(registry: CollectorRegistry) -> list[bytes]:
    return [line for line in generate_latest(registry).splitlines() if b"_created" not in line]


@given(AMOUNTS)
def test_observations_fall_into_the_librarys_buckets(amounts: list[Any]) -> None:
    (ours, histogram), (theirs, reference) = both()
    assert text(ours) == text(theirs), "it is 0 from the start"
    for amount in amounts:
        histogram.observe(amount)
        reference.observe(amount)
    assert text(ours) == text(theirs)


@given(st.dictionaries(st.tuples(st.sampled_from(["ada", 'b"o', "小明"]), st.sampled_from(["x", ""])), AMOUNTS))
def test_labels_keep_their_observations_apart(observed: dict[Any, Any]) -> None:
    (ours, histogram), (theirs, reference) = both("who", "what")
    for labels, amounts in observed.items():
        for amount in amounts:
            histogram.labels(*labels).observe(amount)
            reference.labels(*labels).observe(amount)
        assert histogram.labels(*labels) is histogram.labels(*labels)
        reference.labels(*labels)
    assert text(ours) == text(theirs)
