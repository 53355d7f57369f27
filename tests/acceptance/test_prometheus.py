"""A real Prometheus scrapes real bridges, evaluates every rule, and answers what the Grafana dashboard asks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from local_stack.fixtures import BridgeFactory, DoubleFactory
from local_stack.prometheus import Prometheus

pytestmark = pytest.mark.acceptance

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "letta-bridge.json"
EMPTY_WHERE_NOTHING_FAILS = {"Errors by code", "Retries by cause"}


def push(client: Any, number: Any, **fields: Any) -> None:
    task = {"task_id": f"t{number}", "user_id": f"u{number}", "content": "hi", **fields}
    client.lpush("letta_requests", json.dumps(task))


def test_prometheus_scrapes_bridges_and_evaluates_the_rules(
    redis_url: str,
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    prometheus: Prometheus,
    eventually: Callable[..., Any],
) -> None:
    letta = letta_double()
    bridges = [
        bridge_factory(redis_url, letta.url, FALLBACK_TIMEOUT_SECONDS="0.2", LETTA_RETRY_ATTEMPTS="0") for _ in range(2)
    ]
    prometheus.discover(bridge.url for bridge in bridges)
    eventually(lambda: prometheus.value("sum(letta_bridge_redis_up)") == 2, "both bridges are scraped")
    targets = prometheus.api("targets")["activeTargets"]
    assert [target["health"] for target in targets] == ["up", "up"], targets
    with redis.Redis.from_url(redis_url) as client:
        for number in range(20):
            push(client, number)
        # Each value waits for its own scrape: what a bridge counts and what it reads of the queue are moments apart.
        for query, value in {
            'sum(letta_bridge_tasks_total{outcome="letta"})': 20,
            'max(letta_bridge_queue_settled_total{outcome="letta"})': 20,
            'sum(letta_bridge_tokens_total{type="prompt"})': 20 * 668,
            "min(letta_bridge_check_ok)": 1,
        }.items():
            eventually(lambda query=query, value=value: prometheus.value(query) == value, f"{query} is {value}")
        eventually(lambda: not prometheus.firing(), "no alarm is left of the start")
        push(client, "empty", content="")
        eventually(lambda: "DeadLetters" in prometheus.firing(), "dead letters raise an alarm")
        letta.kill()
        for number in range(100, 140):
            push(client, number)
        eventually(lambda: "LettaAway" in prometheus.firing(), "an absent Letta raises an alarm")
    bridges[0].kill()
    eventually(lambda: "Down" in prometheus.firing(), "a dead bridge raises an alarm")
    assert "None" not in prometheus.firing()
    assert not prometheus.broken_rules()


def test_the_dashboard_is_answered(
    redis_url: str,
    letta_double: DoubleFactory,
    bridge_factory: BridgeFactory,
    prometheus: Prometheus,
    eventually: Callable[..., Any],
) -> None:
    """Asked as Grafana asks: variables by label values, each panel by a range with the variables filled in."""
    bridge = bridge_factory(redis_url, letta_double().url, FALLBACK_TIMEOUT_SECONDS="0.2")
    prometheus.discover([bridge.url])
    with redis.Redis.from_url(redis_url) as client:
        for number in range(20):
            push(client, number)
        push(client, "temporary", meta={"memory_type": "temporary"})
        eventually(lambda: prometheus.value("max(letta_bridge_queue_taken_total)") == 21, "all tasks are counted")
    values = {}
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = variable["query"]["query"].removeprefix("label_values(").rstrip(")").split(", ")
            values[variable["name"]] = prometheus.api(f"label/{label}/values", **{"match[]": metric})
    assert values == {"job": ["letta-bridge"], "queue": ["letta_requests"]}
    # A rate needs two scrapes of its series, and many series begin with the first turn of their kind.
    eventually(
        lambda: empty_panels(prometheus, dashboard, values) <= EMPTY_WHERE_NOTHING_FAILS, "all other panels hold data"
    )


def empty_panels(prometheus: Any, dashboard: Any, values: Any) -> Any:
    now = time.time()
    empty = set()
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$job", values["job"][0]).replace("$queue", values["queue"][0])
            expression = expression.replace("$__rate_interval", "1m")
            assert "$" not in expression
            found = prometheus.api("query_range", query=expression, start=str(now - 60), end=str(now), step="15")
            if not found["result"]:
                empty.add(panel["title"])
    return empty
