"""A real Prometheus scrapes real bridges, loads the alert rules, and raises alarms.

Prometheus comes in no Python package: where it is not installed (Debian: apt-get install prometheus) this is skipped.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import redis

from local_stack.ports import free_port
from local_stack.processes import Process

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not installed; the Debian package has that name"
    ),
]


class Prometheus(Process):
    """One that scrapes and evaluates every half second, and knows no patience."""

    def __init__(self, directory, targets):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        rules = (DEPLOY / "alerts.yml").read_text(encoding="utf-8")
        (directory / "alerts.yml").write_text(re.sub(r"for: \d+m", "for: 0s", rules), encoding="utf-8")
        config = (DEPLOY / "prometheus.yml").read_text(encoding="utf-8")
        config = re.sub(r"(scrape|evaluation)_interval: \w+", r"\1_interval: 500ms", config)
        config = config.replace("scrape_timeout: 10s", "scrape_timeout: 500ms")
        config = config.replace('["letta-bridge:8290"]', json.dumps(targets))
        (directory / "prometheus.yml").write_text(config, encoding="utf-8")
        command = [
            "prometheus",
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        super().__init__("prometheus", command, logs=directory, ready=self._ready_now)

    def _ready_now(self):
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False

    def api(self, path, **query):
        return httpx.get(f"{self.url}/api/v1/{path}", params=query, timeout=5).json()["data"]

    def value(self, query):
        found = self.api("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self):
        return {alert["labels"]["alertname"] for alert in self.api("alerts")["alerts"] if alert["state"] == "firing"}


@pytest.fixture
def start_prometheus(tmp_path):
    """Starts one over these bridges."""
    started = []

    def start(*bridges):
        directory = tmp_path / "prometheus"
        directory.mkdir()
        server = Prometheus(directory, [bridge.url.removeprefix("http://") for bridge in bridges])
        started.append(server)
        server.start()
        server.wait_ready()
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def stub():
    """A stub of Letta: its process and its address."""
    process = subprocess.Popen([sys.executable, "-m", "local_stack.stub_letta"], stdout=subprocess.PIPE, text=True)
    yield process, process.stdout.readline().split()[1]
    process.kill()
    process.stdout.close()
    process.wait()


def wait_until(holds, what, timeout=60.0):
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.1)


def push(client, number, **fields):
    task = {"task_id": f"t{number}", "user_id": f"u{number}", "content": "hi", **fields}
    client.lpush("letta_requests", json.dumps(task))


def test_scraped_and_alarmed(redis_url, stub, bridge_factory, start_prometheus):
    letta, address = stub
    bridges = [bridge_factory(redis_url, address, FALLBACK_TIMEOUT="0.2", LETTA_RETRY_ATTEMPTS="0") for _ in range(2)]
    prometheus = start_prometheus(*bridges)
    rules = [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 10
    wait_until(lambda: prometheus.value("sum(letta_bridge_redis_up)") == 2, "both bridges are scraped")
    targets = prometheus.api("targets")["activeTargets"]
    assert [target["health"] for target in targets] == ["up", "up"], targets

    with redis.Redis.from_url(redis_url) as client:
        for number in range(20):
            push(client, number)
        settled = 'sum(letta_bridge_tasks_total{outcome="letta"})'
        wait_until(lambda: prometheus.value(settled) == 20, "twenty answers are counted")
        assert prometheus.value('max(letta_bridge_queue_settled_total{outcome="letta"})') == 20
        assert prometheus.value('sum(letta_bridge_tokens_total{type="prompt"})') == 20 * 668
        broken = {rule["name"] for rule in rules if rule.get("lastError")}
        assert not broken
        assert not prometheus.firing() & {"LettaBridgeLettaAway", "LettaBridgeDeadLetters", "LettaBridgeDown"}

        push(client, "empty", content="")
        wait_until(lambda: "LettaBridgeDeadLetters" in prometheus.firing(), "dead letters raise an alarm")

        letta.kill()
        for number in range(100, 140):
            push(client, number)
        wait_until(lambda: "LettaBridgeLettaAway" in prometheus.firing(), "an absent Letta raises an alarm")

    bridges[0].kill()
    wait_until(lambda: "LettaBridgeDown" in prometheus.firing(), "a dead bridge raises an alarm")
    evaluated = [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]
    assert not [rule["lastError"] for rule in evaluated if rule.get("lastError")]
