"""Text as PostgreSQL can hold it: users send NUL and halves of surrogate pairs, and no text column takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


def clean_text(text: str) -> str:
    """The text with U+FFFD in place of each character no database holds."""
    return _UNSTORABLE.sub("\ufffd", text)


def clean_json(value: Any) -> Any:
    """A JSON value with every text in it clean, keys too."""
    match value:
        case str():
            return clean_text(value)
        case Mapping():
            return {clean_text(key) if isinstance(key, str) else key: clean_json(part) for key, part in value.items()}
        case list() | tuple():
            return [clean_json(part) for part in value]
        case _:
            return value
