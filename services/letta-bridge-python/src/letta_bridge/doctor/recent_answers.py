"""Checks who answered recently, and whether memory-python can: reveals a wrong key of the model's provider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import httpx

from letta_bridge.doctor.findings import Finding, fail, ok, warn
from letta_bridge.request_queue.recent_turns import RecentTurns
from shared_utils.contracts.messages import json_object

_TIMEOUT_SECONDS: Final = 5.0
_FAILING_SHARE: Final = 0.5
_MODEL_ADVICE: Final = "give memory-python a valid OPENAI_API_KEY, or correct MEMORY_MODEL and OPENAI_BASE_URL"


def answers(recent: RecentTurns) -> Finding:
    """Who answered the turns of the last ten minutes."""
    subject = "answers"
    if not recent.in_trouble:
        return ok(subject, str(recent))
    return (fail if recent.failed_share >= _FAILING_SHARE else warn)(subject, str(recent), recent.advice)


async def memory_python(url: str) -> list[Finding]:
    """The status that memory-python reports at its ``/readyz``."""
    subject = "memory-python.ready"
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
            response = await client.get(f"{url.rstrip('/')}/readyz", params={"verbose": ""})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return [
            warn(
                subject,
                f"does not answer at {url} ({type(error).__name__})",
                "set MEMORY_PYTHON_URL to its health endpoint's address, or fallback.health_url to null to skip "
                "this check",
            )
        ]
    checks = json_object(response.content).get("checks")
    if not isinstance(checks, list):
        return [warn(subject, f"the server at {url} is not memory-python", "correct MEMORY_PYTHON_URL")]
    troubles = list(_troubles(subject, [check for check in checks if isinstance(check, dict)]))
    return troubles or [ok(subject, "; ".join(f"{check.get('name')} {check.get('detail')}" for check in checks))]


def _troubles(subject: str, checks: list[dict[str, Any]]) -> Iterator[Finding]:
    for check in checks:
        if check.get("ok"):
            continue
        # In a detail that is a whole sentence, the remedy follows a semicolon.
        detail, _, advice = str(check.get("detail")).partition("; ")
        advice = advice or (_MODEL_ADVICE if check.get("name") == "model" else "see memory-python's log")
        yield (fail if check.get("required") else warn)(subject, f"{check.get('name')}: {detail}", advice)
