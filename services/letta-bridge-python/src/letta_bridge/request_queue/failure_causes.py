"""The meaning of each cause of a failed turn, and the remedy.

`status`, `doctor`, `send` and `/health` use these texts, so that none of them shows a bare code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Explanation(NamedTuple):
    """The explanation of a cause."""

    means: str
    """A clause for people, such as ``Letta cannot be reached``."""
    advice: str
    """What to do, in the imperative."""


_EXPLANATIONS: Final[Mapping[str, Explanation]] = {
    "model_credentials": Explanation(
        "the provider refuses the key of Letta's model",
        "give Letta a valid key of its model's provider (OPENAI_API_KEY) and restart it",
    ),
    "insufficient_credits": Explanation(
        "the provider of Letta's model demands payment",
        "pay the provider of Letta's model, or raise the quota of its key",
    ),
    "letta_credentials": Explanation(
        "Letta refuses the bridge's key", "set LETTA_API_KEY to Letta's LETTA_SERVER_PASSWORD"
    ),
    "unknown_model": Explanation(
        "Letta does not offer the model",
        "correct LETTA_MODEL, or OPENAI_API_KEY and OPENAI_BASE_URL of Letta, because Letta lists no models of a "
        "provider that refuses its key; letta-bridge doctor names the cause",
    ),
    "forbidden": Explanation(
        "the provider does not allow Letta's key to use the model",
        "allow Letta's key to use this model at the provider",
    ),
    "context_overflow": Explanation(
        "conversations no longer fit the model's context window",
        "make agents.context_window smaller than the model's, or choose a model with a larger one",
    ),
    "no_tool_support": Explanation("the model cannot call tools", "choose a model that can call tools"),
    "unsupported_parameter": Explanation(
        "the model refuses a parameter that Letta sends",
        "choose another LETTA_MODEL, or set Letta's OPENAI_BASE_URL to a proxy that leaves out the parameter; "
        "letta_failed in the bridge's log names it",
    ),
    "content_refused": Explanation(
        "the provider's content filter rejects conversations",
        "choose a provider whose content filter allows these conversations",
    ),
    "bad_request": Explanation(
        "Letta or its model's provider rejects requests as invalid",
        "see letta_failed in the bridge's log, which contains the provider's message",
    ),
    "length_limit": Explanation(
        "the model reaches its length limit before it writes a reply",
        "raise the length limit of Letta's model, which its reasoning uses up",
    ),
    "unavailable": Explanation("Letta cannot be reached", "start Letta, or correct LETTA_API_URL"),
    "server_error": Explanation("Letta or its model's provider reports errors", "see Letta's log"),
    "breaker_open": Explanation(
        "Letta failed several times in a row, so its circuit breaker is open", "start Letta, or see its log"
    ),
    "reply_deadline": Explanation(
        "Letta takes longer than letta.reply_deadline_seconds",
        "choose a faster model, or raise letta.reply_deadline_seconds",
    ),
    "timeout": Explanation(
        "Letta takes longer than letta.timeout_seconds", "choose a faster model, or raise letta.timeout_seconds"
    ),
    "rate_limited": Explanation(
        "the provider limits the rate of Letta's model", "raise the rate limit at the provider of Letta's model"
    ),
    "fallback_unavailable": Explanation("memory-python does not answer in time", "start memory-python"),
}
_DEFAULT_ADVICE: Final = "see letta_failed in the bridge's log, and letta-bridge doctor --deep"


def advice(cause: str | None) -> str:
    """The remedy for a cause; for an unknown cause, where to investigate."""
    found = _EXPLANATIONS.get(cause or "")
    return found.advice if found else _DEFAULT_ADVICE


def meaning(cause: str) -> str:
    """The explanation of a cause with its code in brackets; the bare code of an unknown cause."""
    found = _EXPLANATIONS.get(cause)
    return f"{found.means} ({cause})" if found else cause


def is_explained(cause: str) -> bool:
    """Whether the cause has an explanation and a remedy."""
    return cause in _EXPLANATIONS
