"""Work on the services: a container starts again when its sources or config.json change, and drains before."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local_stack.containers import ContainerStack, Producer, until

if TYPE_CHECKING:
    from project_tests.containers.conftest import MakeStack


@pytest.fixture
def developed(make_stack: MakeStack, tmp_path: Path) -> Iterator[ContainerStack]:
    stack = make_stack("dev")
    (stack.root / "docker-compose.override.yml").unlink()
    stack.prepare("dev")
    stack.compose("build")  # which may take minutes; the next one finds it done
    log = tmp_path / "log"
    with log.open("w") as output:
        words = ["docker", "compose", "up", "--build", "--watch"]
        watcher = subprocess.Popen(words, cwd=stack.root, stdout=output, stderr=subprocess.STDOUT)
        try:
            until(lambda: "Watch enabled" in log.read_text("utf-8"), "compose watches nothing")
            stack.wait_healthy()
            yield stack
        finally:
            watcher.send_signal(signal.SIGINT)
            watcher.wait(120)
    # 143 is the scripted model's, or of a start that was stopped; 137 would be a service that did not listen.
    codes = {service: stack.inspect(service)["State"]["ExitCode"] for service in stack.services()}
    assert set(codes.values()) <= {0, 128 + 15}, codes


def _started(stack: ContainerStack, service: str) -> str:
    return str(stack.inspect(service)["State"]["StartedAt"])


def _wait_restarted(stack: ContainerStack, before: dict[str, str]) -> None:
    for service, started in before.items():
        until(lambda name=service, then=started: _started(stack, name) != then, f"{service} was not started again")  # type: ignore[misc]
    stack.wait_healthy()


def test_a_changed_source_starts_its_service_again_which_drains_first(developed: ContainerStack) -> None:
    producer = Producer(developed)
    before = {"letta-bridge": _started(developed, "letta-bridge")}
    task = producer.push("My name is Ada. [[latency:6000]]")
    producer.wait_taken()
    source = developed.root / "services/letta-bridge-python/src/letta_bridge/bridge.py"
    with source.open("a") as file:
        file.write("\n")
    _wait_restarted(developed, before)
    assert producer.reply(task)["response_text"] == "Noted: Your name is Ada."

    # As an editor does it: another file in its place. Twice, because a watch that follows the file is lost after once.
    config = developed.root / "config.json"
    for level in ("warning", "error"):
        before = {service: _started(developed, service) for service in ("letta-bridge", "memory-python")}
        content = json.loads(config.read_text("utf-8")) | {"logs": {"level": level}}
        new = config.with_name("config.json.new")
        new.write_text(json.dumps(content), "utf-8")
        new.chmod(0o644)
        new.replace(config)
        _wait_restarted(developed, before)
        for service in before:
            assert level in developed.compose("exec", "-T", service, "cat", "/etc/letta-bridge/config.json")
