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
    log = tmp_path / "log"
    with log.open("w") as output:
        words = ["docker", "compose", "up", "--build", "--watch"]
        watcher = subprocess.Popen(words, cwd=stack.root, stdout=output, stderr=subprocess.STDOUT)
        try:
            until(lambda: "Watch enabled" in log.read_text("utf-8"), "compose watches nothing")
            stack.up("--no-recreate")
            yield stack
        finally:
            watcher.send_signal(signal.SIGINT)
            watcher.wait(120)
    assert {stack.inspect(service)["State"]["ExitCode"] for service in stack.services()} == {0}, log.read_text("utf-8")


def _started(stack: ContainerStack) -> str:
    return str(stack.inspect("letta-bridge")["State"]["StartedAt"])


def test_a_changed_file_starts_its_service_again_which_drains_first(developed: ContainerStack) -> None:
    producer = Producer(developed)
    before = _started(developed)
    task = producer.push("My name is Ada. [[latency:6000]]")
    producer.wait_taken()
    source = developed.root / "services/letta-bridge-python/src/letta_bridge/bridge.py"
    with source.open("a") as file:
        file.write("\n")
    until(lambda: _started(developed) != before, "the bridge was not started again")
    assert producer.reply(task)["response_text"] == "Noted: Your name is Ada."

    # As an editor does it: another file in its place. Twice, because a watch that follows the file is lost after once.
    config = developed.root / "config.json"
    for level in ("warning", "error"):
        developed.up("--no-recreate")
        before = _started(developed)
        content = json.loads(config.read_text("utf-8")) | {"logs": {"level": level}}
        new = config.with_name("config.json.new")
        new.write_text(json.dumps(content), "utf-8")
        new.chmod(0o644)
        new.replace(config)
        until(lambda before=before: _started(developed) != before, "the bridge was not started again")  # type: ignore[misc]
        until(
            lambda level=level: (
                level in developed.compose("exec", "-T", "letta-bridge", "cat", "/etc/letta-bridge/config.json")
            ),  # type: ignore[misc]
            "the container has the old file",
        )
    developed.up("--no-recreate")  # a start that is interrupted ends with 143
