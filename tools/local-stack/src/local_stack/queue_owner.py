"""Checks the owner of the queue in an operator's Redis: serving another stack's queue would answer without memory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from local_stack.errors import RedisUnusable, ServesAnother
from local_stack.programs import CHECKOUT
from shared_utils.observability.logs import redact_text
from shared_utils.text import counted

_COMMAND_TIMEOUT_SECONDS: Final = 60.0
_QUEUE_ID_FILE: Final = "queue-id"
_WAY_OUT: Final = (
    "unset REDIS_URL to start a Redis of this stack's own, set LETTA_REQUESTS to the name of another queue, or use "
    "--take-queue if the queue belongs to this stack or its owner no longer exists"
)


@dataclass(frozen=True)
class Queue:
    """What is known of the queue that a bridge with some environment would serve."""

    name: str
    identity: str | None
    """Its random id; None where no bridge has ever served it."""
    bridges: int

    @classmethod
    def of(cls, letta_bridge: Path, environment: Mapping[str, str]) -> Self:
        """Asks the bridge's own program, which knows every form of REDIS_URL.

        Raises:
            RedisUnusable: it cannot be reached, or refuses.
        """
        told = subprocess.run(  # noqa: S603  # the project's own program
            [str(letta_bridge), "status", "--json"],
            env=environment,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_TIMEOUT_SECONDS,
        )
        try:
            status = json.loads(told.stdout)
            return cls(status["queue"], status["queue_id"], int(status["bridges"]))
        except (ValueError, KeyError, TypeError):
            why = redact_text(told.stderr.strip().removeprefix("letta-bridge: ") or "it does not describe its queue")
            raise RedisUnusable(f"REDIS_URL in the environment does not work: {why}") from None

    def refuse_another(self, data: Path) -> None:
        """Let only the stack on this data directory serve a queue that was served before.

        Raises:
            ServesAnother: another stack owns it.
        """
        note = data / _QUEUE_ID_FILE
        if self.identity is not None and note.exists() and note.read_text().strip() == self.identity:
            return
        if self.bridges:
            raise ServesAnother(
                f"REDIS_URL in the environment names a Redis on which another stack serves the queue {self.name} with "
                f"{counted(self.bridges, 'bridge')}; {_WAY_OUT}."
            )
        if self.identity is not None:
            raise ServesAnother(
                f"REDIS_URL in the environment names a Redis whose queue {self.name} another stack, with another "
                f"Letta, has served; {_WAY_OUT}."
            )

    def note(self, data: Path) -> None:
        """Record that the stack on this data directory owns the queue."""
        if self.identity is not None:
            (data / _QUEUE_ID_FILE).write_text(self.identity)
