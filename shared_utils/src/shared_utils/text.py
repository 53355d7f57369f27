"""Text and JSON from outside, made safe to store, send and write: every entry point of every service reads them here.

Strangers' programs write what is legal JSON and cannot be encoded as UTF-8 or stored by a database: half of a surrogate
pair (an emoji cut in two), NUL. They also write bytes of another encoding, or a byte order mark in front. None of it is
a reason to lose a message: each character that cannot be kept becomes U+FFFD.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import from_json

REPLACEMENT: Final = "\ufffd"
"""Stands for each character that cannot be stored."""

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_PADDING: Final = "\ufeff\x00 \t\r\n"
"""Characters that programs leave around a JSON document: a byte order mark, NUL, line ends."""


def clean_text(text: str) -> str:
    """The text with U+FFFD in place of each character that UTF-8 or a database cannot hold."""
    return text if is_clean(text) else _UNSTORABLE.sub(REPLACEMENT, text)


def is_clean(text: str) -> bool:
    """Whether UTF-8 and a database can hold every character of the text."""
    # The expression looks at each character, ten times as slowly as these two look at a text that is mostly fine.
    return (text.isascii() and "\0" not in text) or _UNSTORABLE.search(text) is None


def counted(number: int, noun: str) -> str:
    """``1 task``, ``2 tasks``: a number with its noun, which is given in the singular."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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


def load_json(payload: bytes | str) -> Any:
    """The value of a JSON document exactly as it was written; :func:`read_json` is for everything but identifiers.

    Half a surrogate pair, and each byte that is not UTF-8, stands in the texts as one lone surrogate. Control
    characters within texts are accepted; an integer of thousands of digits becomes infinite.

    Raises:
        ValueError: it is no JSON document, or nested too deeply to be read.
    """
    return read_json_both(payload)[0]


def read_json(payload: bytes | str) -> Any:
    """The value of a JSON document, every text in it clean.

    Raises:
        ValueError: it is no JSON document, or nested too deeply to be read.
    """
    return read_json_both(payload)[1]


def read_json_both(payload: bytes | str) -> tuple[Any, Any]:
    """What :func:`load_json` and :func:`read_json` give for a document.

    Raises:
        ValueError: it is no JSON document, or nested too deeply to be read.
    """
    try:
        written = from_json(payload)
    except (ValueError, TypeError):  # TypeError is what a str with a lone surrogate raises
        text = payload if isinstance(payload, str) else payload.decode("utf-8", "surrogateescape")
    else:
        # The strict reader refuses everything unstorable but an escaped NUL. (`in` is slow where bytes are searched.)
        has_nul = (r"\u0000" in payload) if isinstance(payload, str) else payload.find(rb"\u0000") >= 0
        return written, clean_json(written) if has_nul else written
    try:
        written = json.loads(text.strip(_PADDING), strict=False, parse_int=_integer)
        return written, clean_json(written)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_text(content: bytes) -> str:
    """The text of a file: UTF-8, or UTF-16 where a byte order mark says so; undecodable bytes become U+FFFD."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return clean_text(content.decode("utf-16", "replace"))
    return clean_text(content.decode("utf-8-sig", "replace"))


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts
        return -math.inf if digits.startswith("-") else math.inf
