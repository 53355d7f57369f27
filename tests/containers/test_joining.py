"""The stack beside a Redis, or a Redis and a memory-python, that are somebody else's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from local_stack.containers import ContainerStack, run
from local_stack.programs import CHECKOUT

if TYPE_CHECKING:
    from project_tests.containers.conftest import MakeStack

_PASSWORD = "their password: #1"
_REDIS = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text("utf-8"))["services"]["redis"]["image"].rpartition(
    "}"
)[2]
"""Without the registry that an operator may put in front."""


class Theirs:
    """A network with a Redis, and a program that answers the tasks on ``user_input_queue``."""

    def __init__(self, name: str, memory: Path) -> None:
        self.network = name
        self._memory = memory
        run(["docker", "network", "create", name])
        words = ["valkey-server", "--protected-mode", "no", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
        self._start("redis", "--network-alias", "redis", _REDIS, *words)

    def _start(self, name: str, *words: str) -> None:
        run(["docker", "run", "--detach", "--name", f"{self.network}-{name}", "--network", self.network, *words])

    def want_password(self) -> None:
        """From now on; connections that are open stay."""
        run(["docker", "exec", f"{self.network}-redis", "redis-cli", "CONFIG", "SET", "requirepass", _PASSWORD])

    def start_memory(self, image: str) -> None:
        """The other project's memory-python; of the image, only Python and its client of Redis are used."""
        script = "/opt/foreign_memory.py"
        mount = f"{self._memory}:{script}:ro"
        words = ["--entrypoint", "python", "--volume", mount, image, script, "redis://redis:6379/0"]
        self._start("memory", *words)

    def stop(self) -> None:
        """Its programs; the network may have others in it."""
        for name in ("memory", "redis"):
            run(["sh", "-c", f"docker rm --force --volumes {self.network}-{name} 2> /dev/null || true"])

    def remove(self) -> None:
        """The network, which nothing uses any more."""
        run(["docker", "network", "rm", self.network])


@pytest.fixture
def joined(make_stack: MakeStack) -> Iterator[ContainerStack]:
    """A copy whose model is the scripted one, without the files of the first try."""
    made = make_stack("joined")
    shutil.copyfile(made.root / "deploy/compose.demo.yml", made.root / "docker-compose.override.yml")
    yield made
    made.remove()
    shutil.rmtree(made.root)


@pytest.fixture
def theirs(joined: ContainerStack) -> Iterator[Theirs]:
    script = joined.root / "tests/containers/foreign_memory.py"
    script.chmod(0o644)
    made = Theirs("bridge-test-theirs", script)
    yield made
    made.stop()
    joined.remove()
    made.remove()


def _send(stack: ContainerStack, text: str, memory: str) -> str:
    return stack.bridge("send", text, "--user", "ada", "--memory", memory, "--wait", "120").strip()


def test_join_adds_letta_to_a_redis_and_a_memory_python(joined: ContainerStack, theirs: Theirs) -> None:
    address = {"AIVTUBER_NETWORK": theirs.network, "REDIS_URL": "redis://redis:6379/0"}
    joined.prepare("join", **address)
    joined.up()
    assert not {"redis", "memory-python"} & set(joined.services())
    theirs.start_memory(f"aivtuber/letta-bridge:{joined.setting('AIVTUBER_TAG')}")
    _send(joined, "My name is Ada.", "permanent")
    assert _send(joined, "What is my name?", "permanent") == "Your name is Ada."
    assert _send(joined, "What is my name?", "temporary") == "not ours"

    theirs.want_password()
    joined.prepare("join", REDIS_PASSWORD=_PASSWORD)
    joined.up("--force-recreate")
    assert _send(joined, "What is my name?", "permanent") == "Your name is Ada."
    assert "FAIL" not in joined.bridge("doctor")


def test_an_existing_redis_serves_the_whole_stack(joined: ContainerStack, theirs: Theirs) -> None:
    theirs.want_password()
    joined.prepare("redis", AIVTUBER_NETWORK=theirs.network, REDIS_URL="redis://redis:6379/0", REDIS_PASSWORD=_PASSWORD)
    joined.up()
    assert "redis" not in joined.services()
    _send(joined, "My name is Ada.", "permanent")
    assert _send(joined, "What is my name?", "permanent") == "Your name is Ada."
    assert "Ada" in _send(joined, "My name is Ada.", "temporary")
    assert "FAIL" not in joined.bridge("doctor")
