"""The operator: `letta-bridge` commands with the settings of a bridge."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bridge_chaos.fault import FaultContext
from letta_bridge.fail_points import VARIABLE as FAIL_POINT
from local_stack.programs import CHECKOUT, program

_TIMEOUT_SECONDS: Final = 600.0
"""Long enough for a backup of the agents of all runs that an environment has seen."""
_TIMED_OUT: Final = -1
_FURTHER_TRIES: Final = 5
_PAUSE_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    words: tuple[str, ...]
    code: int
    output: str
    errors: str
    seconds: float

    @property
    def succeeded(self) -> bool:
        return self.code == 0

    @property
    def is_clear(self) -> bool:
        """Whether it succeeded, or said why not, in sentences."""
        return self.succeeded or ("Traceback" not in self.errors and bool(self.errors.strip() or self.output.strip()))

    def __str__(self) -> str:
        last = self.errors.strip().splitlines()[-1:] or self.output.strip().splitlines()[-1:] or ["nothing was said"]
        return f"'{' '.join(self.words)}' ended with {self.code} after {self.seconds:.1f} s: {last[0]}"


def command(context: FaultContext, *words: str, variables: Mapping[str, str] | None = None) -> Outcome:
    """Run a command, as on the host of the first bridge. One that fails without a sentence is a finding.

    Args:
        context: the run.
        words: the command and its arguments.
        variables: environment beside that of the bridge; it wins.
    """
    host = context.environment.bridges[0].environment or {}
    surroundings = {name: value for name, value in host.items() if name != FAIL_POINT} | dict(variables or {})
    began = time.monotonic()
    try:
        ended = subprocess.run(  # noqa: S603 - the project's own program, no shell
            [program("letta-bridge"), *words],
            cwd=CHECKOUT,
            env=surroundings,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        code, output, errors = ended.returncode, ended.stdout, ended.stderr
    except subprocess.TimeoutExpired:
        code, output, errors = _TIMED_OUT, "", f"it did not end within {_TIMEOUT_SECONDS:g} s"
    outcome = Outcome(words, code, output, errors, time.monotonic() - began)
    context.check("unclear", outcome.is_clear, str(outcome))
    return outcome


def insist(context: FaultContext, *words: str, variables: Mapping[str, str] | None = None) -> Outcome:
    """Repeat a command a few times until it succeeds, as an operator would who sees that a service is unavailable."""
    outcome = command(context, *words, variables=variables)
    for _ in range(_FURTHER_TRIES):
        if outcome.succeeded:
            break
        context.remarks.append(f"tried again: {outcome}")
        context.let_pass(_PAUSE_SECONDS)
        outcome = command(context, *words, variables=variables)
    return outcome
