"""SIGHUP: what may change does, what may not is named, and nothing in flight is disturbed."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from local_stack.ports import HOST, free_port
from local_stack.programs import CONFIG

pytestmark = pytest.mark.acceptance


class Configuration:
    """A config.json and what lies over it."""

    def __init__(self, directory):
        self.path = directory / "config.json"
        self.path.write_text(CONFIG.read_text(encoding="utf-8"), encoding="utf-8")
        self.local = directory / "config.local.json"

    def change(self, **sections):
        self.local.write_text(json.dumps(sections), encoding="utf-8")


@pytest.fixture
def configuration(tmp_path):
    return Configuration(tmp_path)


def lines(process):
    return [json.loads(line) for line in process.log.read_text(encoding="utf-8").splitlines()]


def hang_up(process, event, count=1):
    """Send SIGHUP; returns the log line that tells what came of it."""
    os.kill(process.pid, signal.SIGHUP)
    deadline = time.monotonic() + 30
    while len(found := [line for line in lines(process) if line["event"] == event]) < count:
        assert process.running, process.log_tail()
        assert time.monotonic() < deadline, process.log_tail()
        time.sleep(0.02)
    return found[-1]


def test_a_bridge_takes_new_settings_over(bridge_factory, make_observer, redis_url, configuration):
    nobody = f"http://{HOST}:{free_port()}"
    bridge = bridge_factory(redis_url, nobody, LETTA_BRIDGE_CONFIG=str(configuration.path), LETTA_FALLBACK="false")
    observer = make_observer(redis_url)
    configuration.change(guards={"max_age": 0.001}, logs={"level": "debug"}, queue={"lease": 60})
    line = hang_up(bridge, "settings_reloaded")
    assert line["changed"] == {"guards.max_age": 0.001, "logs.level": "debug"}
    assert line["need_restart"] == ["queue.lease"]
    observer.push("ada", "t1", "hi", timestamp=time.time() - 60)
    observer.wait_settled(1)
    assert observer.reply("ada", "t1")["code"] == "expired"
    (hit,) = [line for line in lines(bridge) if line["event"] == "limit_reached"]
    assert hit["task_id"] == "t1"
    assert hit["user_id"].startswith("user-")
    observer.client.close()


def test_wrong_settings_are_refused_and_the_bridge_continues(bridge_factory, redis_url, configuration):
    nobody = f"http://{HOST}:{free_port()}"
    bridge = bridge_factory(redis_url, nobody, LETTA_BRIDGE_CONFIG=str(configuration.path))
    configuration.change(guards={"max_agee": 1})
    line = hang_up(bridge, "settings_refused")
    assert "did you mean 'max_age'?" in line["error"]
    configuration.change(guards={"max_age": 1})
    assert hang_up(bridge, "settings_reloaded")["changed"] == {"guards.max_age": 1.0}


def test_settings_stay_where_their_file_is_gone(bridge_factory, redis_url, configuration):
    configuration.change(guards={"max_age": 1})
    nobody = f"http://{HOST}:{free_port()}"
    bridge = bridge_factory(redis_url, nobody, LETTA_BRIDGE_CONFIG=str(configuration.path))
    configuration.path.unlink()
    line = hang_up(bridge, "settings_refused")
    assert f"{configuration.path.name} does not exist" in line["error"]
    configuration.path.write_text("{}")
    configuration.change(guards={"max_age": 2})
    assert hang_up(bridge, "settings_reloaded")["changed"] == {"guards.max_age": 2.0}


def test_memory_python_takes_a_new_log_level_over(memory_factory, redis_url, configuration):
    memory = memory_factory(redis_url, LETTA_BRIDGE_CONFIG=str(configuration.path))
    configuration.change(logs={"level": "debug"}, memory={"batch": 7})
    line = hang_up(memory, "settings_reloaded")
    assert (line["changed"], line["need_restart"]) == ({"logs.level": "debug"}, ["memory.batch"])
