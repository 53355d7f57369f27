"""Error codes that have a new name.

Replies say the former one beside it for one release. Records of the last release (kept replies, dead letters, tallies)
hold former codes, and whoever reads a code from Redis reads its present name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

FORMER_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "lane_full": "user_queue_full",
        "user_rate": "user_rate_limited",
        "user_tokens_spent": "user_token_budget_exhausted",
        "tokens_spent": "token_budget_exhausted",
        "turn_fate_unknown": "outcome_unknown",
    }
)
"""Former → present."""

_FORMER: Final = {present: former for former, present in FORMER_CODES.items()}


def present_code(code: str) -> str:
    """The present name of a code that a record holds."""
    return FORMER_CODES.get(code, code)


def former_code(code: str) -> str | None:
    """What the last release called it; None where it had the same name."""
    return _FORMER.get(code)
