"""Runs the double as a process, and sets its faults."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from local_stack.ports import HOST, free_port
from local_stack.processes import Process
from local_stack.programs import answers, environment

_UNTIL_HEALED: Final = 2**31
"""More calls than any test makes."""


class Dialled:
    """A server that accepts faults at its `url`."""

    url: str

    def fail(
        self,
        mode: str,
        *,
        times: int = _UNTIL_HEALED,
        operation: str = "send",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Let the next calls of an operation go wrong.

        Args:
            mode: how; see `dials`.
            times: so many calls; without a number all until `heal`.
            operation: the kind of call.
            details: further fields of a `Dial`.
        """
        dial = {"operation": operation, "mode": mode, "left": times, **(details or {})}
        # Not httpx's own JSON: it cannot send half a surrogate pair, which a model may write.
        httpx.post(f"{self.url}/control", content=json.dumps(dial)).raise_for_status()

    def heal(self) -> None:
        """Remove all faults and counters."""
        httpx.delete(f"{self.url}/control").raise_for_status()

    def struck(self, operation: str = "send") -> int:
        """The number of failed calls of the operation since its fault was set."""
        return int(self.seen()["struck"].get(operation, 0))

    def seen(self) -> Mapping[str, Any]:
        """What the server has counted.

        Returns:
            ``struck``: calls that went wrong as dialled, by operation. Of a double also ``turns`` begun and
            ``most_at_work`` at once in this process, turns ``at_work`` now in all processes over its file, and
            ``overlaps``, with an agent id for each turn that began beside another one of the same agent.
        """
        seen: Mapping[str, Any] = httpx.get(f"{self.url}/seen").json()
        return seen


class LettaDouble(Process, Dialled):
    """A double of Letta.

    Args:
        file: what it remembers; several may share it. None keeps everything in memory.
        logs: directory of its log file.
        name: of the process; its port names it where not given.
        latency: seconds a step of a turn takes.
        gather: turns that have to be at work at once before the first is answered.
    """

    def __init__(
        self, file: Path | None = None, *, logs: Path, name: str | None = None, latency: float = 0.0, gather: int = 1
    ) -> None:
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        command = [sys.executable, "-m", "local_stack.letta_double", "--port", str(port), "--latency", str(latency)]
        super().__init__(
            name or f"letta-double-{port}",
            [*command, "--gather", str(gather), *(["--file", str(file)] if file else [])],
            logs=logs,
            environment=environment(),
            ready=answers(f"{self.url}/v1/health/"),
        )
