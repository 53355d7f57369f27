"""Letta's own variables, which it reads when it is imported: a value that it refuses, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_PREFIXES: Final[Mapping[str, str]] = {
    "Settings": "LETTA_",
    "ModelSettings": "",
    "ToolSettings": "",
    "SummarizerSettings": "LETTA_SUMMARIZER_",
    "LogSettings": "LETTA_LOGGING_",
    "TelemetrySettings": "LETTA_TELEMETRY_",
    "ReadinessSettings": "LETTA_READINESS_",
}
"""Classes of settings in Letta 0.16.8, and what their variables begin with."""


def refused(error: Any) -> str | None:
    """A sentence for the operator; None if the error is not pydantic's, about one of Letta's variables.

    Values are not repeated.
    """
    # Not imported for its type: that takes longer than most commands.
    prefix = _PREFIXES.get(getattr(error, "title", ""))
    if prefix is None or type(error).__name__ != "ValidationError":
        return None
    problem = error.errors(include_input=False, include_context=False, include_url=False)[0]
    name = prefix + "_".join(str(part) for part in problem["loc"]).upper()
    return f"{name} is not what Letta takes there ({problem['msg']}): correct the variable, or remove it."
