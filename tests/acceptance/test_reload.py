"""SIGHUP: what may change does, what may not is named, and nothing in flight is disturbed."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from local_stack.fixtures import BridgeFactory, MemoryFactory
from local_stack.ports import HOST, free_port
from local_stack.programs import CONFIG

pytestmark = pytest.mark.acceptance


class Configuration:
    """A config.json and what lies over it."""

    def __init__(self, directory: Any) -> None:
        self.path = directory / "config.json"
        self.path.write_text(CONFIG.read_text(encoding="utf-8"), encoding="utf-8")
        self.local = directory / "config.local.json"

    def change(self, **sections: Any) -> None:
        self.local.write_text(json.dumps(sections), encoding="utf-8")


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return Configuration(tmp_path)


def lines(process: Any) -> list[Any]:
    return [json.loads(line) for line in process.log.read_text(encoding="utf-8").splitlines()]


def hang_up(process: Any, event: str, count: int = 1) -> Any:
    """Send SIGHUP; returns the log line that tells what came of it."""
    os.kill(process.pid, signal.SIGHUP)
    deadline = time.monotonic() + 30
    while len(found := [line for line in lines(process) if line["event"] == event]) < count:
        assert process.running, process.log_tail()
        assert time.monotonic() < deadline, process.log_tail()
        time.sleep(0.02)
    return found[-1]


def test_a_bridge_takes_new_settings_over(
    bridge_factory: BridgeFactory, make_observer: Any, redis_url: str, configuration: Configuration
) -> None:
    nobody = f"http://{HOST}:{free_port()}"
    bridge = bridge_factory(redis_url, nobody, LETTA_BRIDGE_CONFIG=str(configuration.path), LETTA_FALLBACK="false")
    observer = make_observer(redis_url)
    configuration.change(limits={"max_age_seconds": 0.001}, logs={"level": "debug"}, queue={"lease_seconds": 60})
    line = hang_up(bridge, "settings_reloaded")
    assert line["changed"] == {"limits.max_age_seconds": 0.001, "logs.level": "debug"}
    assert line["need_restart"] == ["queue.lease_seconds"]
    observer.push("ada", "t1", "hi", timestamp=time.time() - 60)
    observer.wait_settled(1)
    assert observer.reply("ada", "t1")["code"] == "expired"
    (hit,) = [line for line in lines(bridge) if line["event"] == "limit_reached"]
    assert hit["task_id"] == "t1"
    assert hit["user_id"].startswith("user-")
    observer.client.close()


def test_wrong_settings_are_refused_and_the_bridge_continues(
    bridge_factory: BridgeFactory, redis_url: str, configuration: Configuration
) -> None:
    nobody = f"http://{HOST}:{free_port()}"
    bridge = bridge_factory(redis_url, nobody, LETTA_BRIDGE_CONFIG=str(configuration.path))
    configuration.change(limits={"max_age_second": 1})
    line = hang_up(bridge, "settings_refused")
    assert "did you mean 'max_age_seconds'?" in line["error"]
    configuration.change(limits={"max_age_seconds": 1})
    assert hang_up(bridge, "settings_reloaded")["changed"] == {"limits.max_age_seconds": 1.0}


def test_settings_stay_where_their_file_is_gone(
    bridge_factory: BridgeFactory, redis_url: str, configuration: Configuration
) -> None:
    configuration.change(limits={"max_age_seconds": 1})
    nobody = f"http://{HOST}:{free_port()}"
    bridge = bridge_factory(redis_url, nobody, LETTA_BRIDGE_CONFIG=str(configuration.path))
    configuration.path.unlink()
    line = hang_up(bridge, "settings_refused")
    assert f"{configuration.path.name} does not exist" in line["error"]
    configuration.path.write_text("{}")
    configuration.change(limits={"max_age_seconds": 2})
    assert hang_up(bridge, "settings_reloaded")["changed"] == {"limits.max_age_seconds": 2.0}


def test_memory_python_takes_a_new_log_level_over(
    memory_factory: MemoryFactory, redis_url: str, configuration: Configuration
) -> None:
    memory = memory_factory(redis_url, LETTA_BRIDGE_CONFIG=str(configuration.path))
    configuration.change(logs={"level": "debug"}, memory={"batch": 7})
    line = hang_up(memory, "settings_reloaded")
    assert (line["changed"], line["need_restart"]) == ({"logs.level": "debug"}, ["memory.batch"])


def told(process: Any) -> list[Any]:
    return [(line["source"], line["names"]) for line in lines(process) if line["event"] == "settings_deprecated"]


def test_former_setting_names_are_logged_once_at_start_and_on_each_reload(
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
    make_observer: Any,
    redis_url: str,
    configuration: Configuration,
) -> None:
    configuration.change(queue={"lease": 8}, memory={"lease": 9})
    variables = {"LETTA_BRIDGE_CONFIG": str(configuration.path), "LETTA_FALLBACK": "false"}
    bridge = bridge_factory(redis_url, f"http://{HOST}:{free_port()}", **variables, GUARD_BURST="7")
    memory = memory_factory(redis_url, LETTA_BRIDGE_CONFIG=str(configuration.path))
    local = str(configuration.local)
    environment = ("the environment", {"GUARD_BURST": "LIMIT_BURST"})
    assert told(bridge) == [(local, {"queue.lease": "queue.lease_seconds"}), environment]
    assert told(memory) == [(local, {"memory.lease": "memory.lease_seconds"})]
    configuration.change(guards={"max_age": 0.001}, queue={"lease_seconds": 8}, memory={"lease_seconds": 9})
    line = hang_up(bridge, "settings_reloaded")
    assert (line["changed"], line["need_restart"]) == ({"limits.max_age_seconds": 0.001}, [])
    assert told(bridge)[2:] == [(local, {"guards.max_age": "limits.max_age_seconds"}), environment]
    hang_up(memory, "settings_reloaded")
    assert len(told(memory)) == 1
    observer = make_observer(redis_url)
    observer.push("ada", "t1", "hi", timestamp=time.time() - 60)
    observer.wait_settled(1)
    assert observer.reply("ada", "t1")["code"] == "expired"
    configuration.change(queue={"lease": 8, "lease_seconds": 9})
    assert "different values; remove queue.lease" in hang_up(bridge, "settings_refused")["error"]
    observer.client.close()
