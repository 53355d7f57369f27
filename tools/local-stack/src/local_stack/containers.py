"""A stack in containers, from a copy of the checkout with secrets, data, ports and images of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import redis

from local_stack.programs import CHECKOUT

_LONGEST: Final = 600.0
"""Seconds for any one command: an image of Letta is built within them."""


_PATIENCE: Final = 120.0
"""Seconds for what a stack does by itself."""

_START: Final = 300.0
"""Seconds for a whole stack to become healthy, on a machine that does other work as well."""


def missing() -> str | None:
    """Why there can be no containers here; None where there can."""
    if shutil.which("docker") is None:
        return "no program docker"
    done = subprocess.run(
        ["docker", "info"],  # noqa: S607 - the one on the PATH
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.returncode == 0 else f"docker reaches no engine: {done.stderr.strip()}"


def run(words: list[str], *, cwd: Path = CHECKOUT, **environment: str) -> str:
    """What a command prints on standard output; a failure shows the rest as well."""
    done = subprocess.run(  # noqa: S603 - the caller's words, no shell
        words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=_LONGEST
    )
    if done.returncode != 0:
        raise AssertionError(f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def until(condition: Callable[[], bool], otherwise: str, *, patience: float = _PATIENCE) -> None:
    """Ask again until it holds, for `patience` seconds; a connection that is not there yet counts as no."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (OSError, redis.ConnectionError):
            pass
        time.sleep(0.1)
    raise AssertionError(f"{otherwise}, within {patience:.0f} s")


class ContainerStack:
    """One copy of the project as an operator has it, and what they do with it.

    Attributes:
        root: the copy's folder.
        project: the name that docker compose knows it by.
    """

    def __init__(self, root: Path, project: str) -> None:
        """Copy the checkout's files, readable by their owner alone: as a clone of somebody with the umask 077 is."""
        self.root = root
        self.project = project
        listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        root.mkdir(mode=0o700)
        for name in filter(None, listed.split("\0")):
            source, target = CHECKOUT / name, root / name
            if source.is_file() and not source.is_symlink():
                for folder in reversed([parent for parent in target.parents if root in parent.parents]):
                    folder.mkdir(mode=0o700, exist_ok=True)
                shutil.copyfile(source, target)
                target.chmod(0o700 if source.stat().st_mode & 0o100 else 0o600)

    def prepare(self, *words: str, **environment: str) -> str:
        """Run deploy/prepare, with the copy's project name."""
        return run(["./deploy/prepare", *words], cwd=self.root, COMPOSE_PROJECT_NAME=self.project, **environment)

    def shell(self, command: str) -> str:
        """Run a command as a document shows it."""
        return run(["bash", "-euo", "pipefail", "-c", command], cwd=self.root)

    def compose(self, *words: str) -> str:
        """Run docker compose: COMPOSE_FILE and the project's name come from .env."""
        return run(["docker", "compose", *words], cwd=self.root)

    def up(self, *words: str) -> None:
        """Start everything and wait until it is healthy; a failure shows the services' health and logs."""
        try:
            self.compose("up", "--detach", "--wait", "--wait-timeout", f"{_START:.0f}", *words)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.report()}") from error

    def wait_healthy(self) -> None:
        """Until every service is; unlike ``up``, it bears one that is being started again."""

        def healthy() -> bool:
            # One command for all services: asking for each takes the processor that they need to start.
            found = self.compose("ps", "--all", "--format", "{{.Service}} {{.Health}}").splitlines()
            return bool(found) and all(line.endswith(" healthy") for line in found)

        try:
            until(healthy, "a service did not become healthy", patience=_START)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.report()}") from error

    def down(self) -> None:
        """Take containers and networks away; the data stays."""
        self.compose("down", "--timeout", "60", "--remove-orphans")

    def remove(self) -> None:
        """Take everything away that the copy has made outside its folder."""
        if (self.root / ".env").exists():
            self.compose("down", "--timeout", "5", "--remove-orphans", "--rmi", "local")
            tag = self.setting("AIVTUBER_TAG")
            # By name: another copy's image may be the same one.
            listed = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"]
            images = run([*listed, "--filter", f"reference=aivtuber/*:{tag}"]).split()
            if images:
                run(["docker", "rmi", *images])

    def report(self) -> str:
        """Everything that tells why something is not healthy."""
        checks = [self.inspect(service)["State"] for service in self.services()]
        return "\n".join([json.dumps(checks, indent=1), self.compose("logs", "--no-color", "--tail", "60")])

    def services(self) -> list[str]:
        """Those that have a container, running or not."""
        return sorted(self.compose("ps", "--all", "--services").split())

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        found: dict[str, Any] = json.loads(run(["docker", "inspect", container]))[0]
        return found

    def bridge(self, *words: str) -> str:
        """Run the bridge's command line in its container."""
        return self.compose("exec", "-T", "letta-bridge", "letta-bridge", *words)

    def send(self, text: str, user: str = "ada") -> str:
        """Send a task, and return the reply's text."""
        return self.bridge("send", text, "--user", user, "--wait", "120").strip()

    def setting(self, name: str) -> str:
        """A variable's value in .env."""
        found = re.findall(rf"^{name}=(.*)$", (self.root / ".env").read_text("utf-8"), re.MULTILINE)
        return str(found[-1])

    def secret(self, name: str) -> str:
        """A secret's value."""
        return (self.root / f"secrets/{name}.txt").read_text("utf-8").strip()

    @property
    def redis_url(self) -> str:
        """Where a producer on this host connects, as the README says."""
        return f"redis://:{self.secret('redis_password')}@127.0.0.1:{self.setting('AIVTUBER_REDIS_PORT')}/0"


class Producer:
    """A product's connection to a stack's Redis, by the address, user and password that the README names."""

    def __init__(self, stack: ContainerStack) -> None:
        """Connect to a stack that runs."""
        self._health = f"http://127.0.0.1:{stack.setting('AIVTUBER_BRIDGE_PORT')}/health"
        self._client = redis.Redis.from_url(stack.redis_url, decode_responses=True)

    def push(self, text: str, **meta: str) -> str:
        """Push a task of Ada's; its id."""
        task_id = f"task-{time.monotonic_ns()}"
        task = {"task_id": task_id, "user_id": "ada", "content": text, "meta": meta}
        self._client.lpush("letta_requests", json.dumps(task))
        return task_id

    def wait_taken(self) -> None:
        """Until the bridge works on a task."""

        def taken() -> bool:
            with urllib.request.urlopen(self._health, timeout=10) as answer:  # noqa: S310 - http
                return bool(json.load(answer)["in_flight_here"])

        until(taken, "the bridge took no task")

    def reply(self, task_id: str) -> dict[str, Any]:
        """The kept reply to a task of Ada's, once it is there."""
        found: list[str] = []

        def kept() -> bool:
            value = self._client.get(f"{{letta_requests}}:reply:ada:{task_id}")
            found.extend([str(value)] if value else [])
            return bool(found)

        until(kept, f"there was no reply to {task_id}")
        reply: dict[str, Any] = json.loads(found[0])
        return reply

    def replies(self, task_id: str) -> int:
        """How many replies to a task the stream of replies has."""
        entries = self._client.xrange("{letta_requests}:replies") or []
        return sum(task_id in json.dumps(entry) for entry in entries)
