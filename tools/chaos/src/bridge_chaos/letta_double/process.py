"""The double as a process, and how to make it fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from local_stack.ports import HOST, free_port
from local_stack.processes import Process
from local_stack.programs import answers, environment


class Dialled:
    """A server whose faults are dialled in at its `url`."""

    url: str

    def fail(
        self, mode: str, *, times: int, operation: str = "send", details: Mapping[str, float | str] | None = None
    ) -> None:
        """From now on the next `times` calls of an operation go wrong; `details` are further fields of a `Dial`."""
        dial = {"operation": operation, "mode": mode, "left": times, **(details or {})}
        # Not httpx's own JSON: it cannot send half a surrogate pair, which a model may write.
        httpx.post(f"{self.url}/control", content=json.dumps(dial)).raise_for_status()

    def heal(self) -> None:
        """Take all faults back, and forget what was seen."""
        httpx.delete(f"{self.url}/control").raise_for_status()

    def struck(self, operation: str = "send") -> int:
        """How many calls of the operation have gone wrong as dialled, since the dial was set."""
        return int(self.seen()["struck"].get(operation, 0))

    def seen(self) -> Mapping[str, Any]:
        """``struck`` by operation; of a double ``turns`` begun, ``at_work`` now, and an agent id for each overlap."""
        seen: Mapping[str, Any] = httpx.get(f"{self.url}/seen").json()
        return seen


class LettaDouble(Process, Dialled):
    """A double of Letta.

    Args:
        file: what it remembers; several may share it.
        latency: seconds a step of a turn takes.
    """

    def __init__(self, file: Path, *, logs: Path, name: str, latency: float) -> None:
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        command = [sys.executable, "-m", "bridge_chaos.letta_double", "--port", str(port), "--file", str(file)]
        super().__init__(
            name,
            [*command, "--latency", str(latency)],
            logs=logs,
            environment=environment(),
            ready=answers(f"{self.url}/v1/health/"),
        )
