"""How an export is written: one JSON document a line, readable by people and programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from shared_utils.text import read_json, read_text


def write_json_lines(path: Path, items: Iterable[bytes | Mapping[str, Any]]) -> int:
    """Write a file where there is something to write; how many lines.

    A text that is not JSON becomes a JSON string.
    """
    lines = [_line(item) for item in items]
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


def write_json(path: Path, item: Mapping[str, Any]) -> None:
    """Write one document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(item, ensure_ascii=False, indent=2, default=_plain) + "\n", encoding="utf-8")


def _line(item: bytes | Mapping[str, Any]) -> str:
    content: Any = item
    if isinstance(item, bytes):
        try:
            content = read_json(item)
        except ValueError:
            content = read_text(item)
    return json.dumps(content, ensure_ascii=False, default=_plain)


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
