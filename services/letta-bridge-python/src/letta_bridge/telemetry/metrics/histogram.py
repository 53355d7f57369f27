"""Histograms for the hot path: what prometheus_client's give, for a sixth of the time.

Those lock and look through their buckets one by one, and a turn is observed half a dozen times. These belong to one
event loop, in which they are also scraped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import inf

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Observations:
    """The observations under one set of labels."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * len(bounds)
        self._sum = 0.0

    def observe(self, amount: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, amount)] += 1
        self._sum += amount

    def sums(self) -> tuple[list[int], float]:
        """How many were at most as large as each bound, and their sum."""
        return list(accumulate(self._counts)), self._sum


class Histogram(Collector):
    """One histogram with all its labels.

    Args:
        name: without a suffix.
        documentation: one sentence.
        label_names: empty for a histogram that is observed itself, which is 0 from the start.
        buckets: upper bounds, ascending; everything beyond the last is counted, too.
        registry: where it is collected.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        label_names: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._label_names = label_names
        self._bounds = (*buckets, inf)
        self._names = [floatToGoString(bound) for bound in self._bounds]  # type: ignore[no-untyped-call]  # not typed there
        self._children: dict[tuple[str, ...], Observations] = {}
        if not label_names:
            self.observe = self.labels().observe
        registry.register(self)

    def labels(self, *values: str) -> Observations:
        """The child with these values of the labels; keep it, rather than ask for it each time."""
        return self._children.setdefault(values, Observations(self._bounds))

    def describe(self) -> Iterable[Metric]:
        """See :class:`prometheus_client.registry.Collector`."""
        yield self._family()

    def collect(self) -> Iterable[Metric]:
        """See :class:`prometheus_client.registry.Collector`."""
        family = self._family()
        for values, child in self._children.items():
            counts, total = child.sums()
            family.add_metric(values, list(zip(self._names, counts, strict=True)), total)
        yield family

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._documentation, labels=self._label_names)
