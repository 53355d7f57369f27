"""Writes the files of an export: one JSON document per line, readable only by their owner."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from shared_utils.private_files import replacing
from shared_utils.text import read_json, read_text


def write_json_lines(path: Path, items: Iterable[bytes | Mapping[str, Any]]) -> int:
    """Write a file if there are lines; returns their number.

    A text that is not JSON becomes a JSON string.
    """
    left = iter(items)
    first = next(left, None)
    if first is None:
        return 0
    with replacing(path) as file:
        file.write(_line(first))
        count = 1
        for item in left:
            file.write(_line(item))
            count += 1
    return count


def write_json(path: Path, item: Mapping[str, Any]) -> None:
    """Write one document."""
    with replacing(path) as file:
        file.write(_encoded(json.dumps(item, ensure_ascii=False, indent=2, default=_plain)))


def _line(item: bytes | Mapping[str, Any]) -> bytes:
    content: Any = item
    if isinstance(item, bytes):
        try:
            content = read_json(item)
        except ValueError:
            content = read_text(item)
    return _encoded(json.dumps(content, ensure_ascii=False, default=_plain))


def _encoded(text: str) -> bytes:
    """With half a surrogate pair, which JSON may hold and UTF-8 may not, as an escape."""
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
