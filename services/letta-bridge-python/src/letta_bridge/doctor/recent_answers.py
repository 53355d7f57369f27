"""Who answered lately, and whether memory-python could: what a wrong key of the model's provider shows in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx

from letta_bridge.doctor.findings import Finding, fail, ok, warn
from letta_bridge.request_queue.recent_turns import RecentTurns
from shared_utils.messages import json_object

_TIMEOUT_SECONDS: Final = 5.0
_FAILING_SHARE: Final = 0.5
_ADVICE: Final[Mapping[str, str]] = {
    "model_credentials": "give Letta a valid key of its model's provider (OPENAI_API_KEY) and restart it",
    "insufficient_credits": "pay the provider of Letta's model, or raise the quota of its key",
    "letta_credentials": "set LETTA_API_KEY to what Letta has in LETTA_SERVER_PASSWORD",
    "unknown_model": "set LETTA_MODEL to a handle that Letta and its provider know",
    "forbidden": "let the key of Letta's model use this model",
    "context_overflow": "make agents.context_window smaller than the model's, or take a model with a larger one",
    "no_tool_support": "take a model that can call tools",
    "unsupported_parameter": "take another LETTA_MODEL, or set Letta's OPENAI_BASE_URL to a proxy that leaves out the "
    "parameter; letta_failed in the bridge's log names it",
    "content_refused": "take a provider whose content filter lets these conversations pass",
    "bad_request": "see letta_failed in the bridge's log, which has the provider's words",
    "length_limit": "raise the length limit of Letta's model, which its thoughts use up",
    "unavailable": "start Letta, or correct LETTA_API_URL",
    "breaker_open": "start Letta, or see its log",
    "reply_deadline": "take a faster model, or raise letta.reply_deadline",
    "timeout": "take a faster model, or raise letta.timeout",
    "rate_limited": "raise the rate limit at the provider of Letta's model",
    "fallback_unavailable": "start memory-python",
}
_MODEL_ADVICE: Final = "give memory-python a valid OPENAI_API_KEY, or correct MEMORY_MODEL and OPENAI_BASE_URL"


def answers(recent: RecentTurns) -> Finding:
    """Who answered the turns of the last ten minutes."""
    subject = "answers"
    if not recent.in_trouble:
        return ok(subject, str(recent))
    advice = _ADVICE.get(
        recent.main_cause or "", "see letta_failed in the bridge's log, and letta-bridge doctor --deep"
    )
    return (fail if recent.failed_share >= _FAILING_SHARE else warn)(subject, str(recent), advice)


async def memory_python(url: str) -> list[Finding]:
    """What memory-python says at its ``/readyz``."""
    subject = "memory-python.ready"
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
            response = await client.get(f"{url.rstrip('/')}/readyz", params={"verbose": ""})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return [
            warn(
                subject,
                f"cannot be asked at {url} ({type(error).__name__})",
                "set MEMORY_PYTHON_URL to where it serves its health, or fallback.health_url to null not to ask it",
            )
        ]
    checks = json_object(response.content).get("checks")
    if not isinstance(checks, list):
        return [warn(subject, f"what answers at {url} is no memory-python", "correct MEMORY_PYTHON_URL")]
    troubles = list(_troubles(subject, [check for check in checks if isinstance(check, dict)]))
    return troubles or [ok(subject, "; ".join(f"{check.get('name')} {check.get('detail')}" for check in checks))]


def _troubles(subject: str, checks: list[dict[str, Any]]) -> Iterator[Finding]:
    for check in checks:
        if check.get("ok"):
            continue
        says = f"{check.get('name')}: {check.get('detail')}"
        advice = _MODEL_ADVICE if check.get("name") == "model" else "see memory-python's log"
        yield (fail if check.get("required") else warn)(subject, says, advice)
