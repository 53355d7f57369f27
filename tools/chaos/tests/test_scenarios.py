"""Pairs: which are possible, and that the seed alone chooses them."""

from __future__ import annotations

from typing import Any

import pytest

from bridge_chaos.catalogue import catalogue
from bridge_chaos.load import Load
from bridge_chaos.scenario import Phase, Scenario, drawn_pairs, named_pair
from bridge_chaos.topology import Topology

FAULTS = catalogue()


def pair(first: Any, second: Any, phase: Any = Phase.TOGETHER) -> Scenario:
    return Scenario(FAULTS[first], FAULTS[second], phase)


def test_the_same_seed_draws_the_same_pairs() -> None:
    faults = list(FAULTS.values())
    drawn = [pair.name for pair in drawn_pairs(faults, 40, 7)]
    assert drawn == [pair.name for pair in drawn_pairs(faults, 40, 7)]
    assert drawn != [pair.name for pair in drawn_pairs(faults, 40, 8)]
    assert len(set(drawn)) == 40
    assert {name.rpartition("@")[2] for name in drawn} == set(Phase)


def test_every_drawn_pair_is_possible_and_named() -> None:
    for drawn in drawn_pairs(list(FAULTS.values()), 60, 1):
        assert drawn.problem() is None
        assert named_pair(drawn.name, FAULTS) == drawn


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("redis/kill", "redis/restart"),  # both own the process
        ("redis/kill", "redis/client-kill"),  # the second one needs it
        ("bridge/kill-both", "bridge/zombie"),
        ("letta/401", "letta/hang"),
        ("letta/kill", "letta/hang"),
    ],
)
def test_two_faults_of_one_part_strike_one_after_the_other_only(first: str, second: str) -> None:
    assert pair(first, second).problem()
    assert pair(second, first, Phase.DURING).problem()
    assert pair(first, second, Phase.RECOVERY).problem() is None


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("redis/failover", "redis/slot-moving"),  # Sentinel and Cluster
        ("redis/failover", "redis/black-hole"),  # nothing stands between services and a Sentinel's servers
        ("bridge/full-disk", "postgres/kill"),  # without a database
        ("real-letta/kill", "letta/401"),  # a dial of the double
        ("load/flood", "bridge/kill"),
    ],
)
def test_faults_that_need_different_stacks_are_no_pair(first: str, second: str, phase: Any) -> None:
    assert pair(first, second, phase).problem()


@pytest.mark.parametrize("phase", Phase)
def test_bridges_that_lose_tasks_are_no_pair_where_tasks_are_handed_out_once(phase: Any) -> None:
    faults = catalogue()
    problem = Scenario(faults["operator/dead-retry"], faults["bridge/stop-taken"], phase).problem()
    assert problem is not None
    assert Scenario(faults["operator/dead-retry"], faults["memory/killed"], Phase.RECOVERY).problem() is None


def test_two_faults_of_one_bridge_strike_one_bridge_each() -> None:
    assert pair("bridge/kill-sent", "bridge/stop-answered").problem() is None


def test_a_pairs_load_is_enough_for_both() -> None:
    load = pair("memory/gone", "redis/kill").load
    assert (load.users, load.messages >= 8) == (16, True)
    assert Load(users=3).merged(Load(users=2, prefix="x")).prefix == "x"


def test_topologies_merge_where_one_of_them_wants_the_default() -> None:
    one = Topology(redis="sentinel", variables=(("A", "1"),))
    other = Topology(own_data=True, variables=(("B", "2"),))
    merged = one.merged(other)
    assert merged == Topology(redis="sentinel", own_data=True, variables=(("A", "1"), ("B", "2")))
    assert one.merged(Topology(redis="cluster")) is None
    assert one.merged(Topology(variables=(("A", "2"),))) is None
