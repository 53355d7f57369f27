"""The text of a log call as its source has it: what happened, without the values.

Letta builds its messages from values: names, tool arguments, answers of providers that quote a request. None of them
can be told from a harmless one afterwards, so the expressions stay unevaluated.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

_METHODS: Final = {"critical", "debug", "error", "exception", "fatal", "info", "log", "warn", "warning"}
_MODULES_KEPT: Final = 200


def template(record: logging.LogRecord) -> str:
    """The text of the record's log call, with ``{expression}`` for each value; only its length where unknown."""
    known = _calls(record.pathname).get(record.lineno)
    if known is not None:
        return known
    if isinstance(record.msg, str):
        return record.msg if record.args else f"<{len(record.msg)} characters>"
    return f"<{type(record.msg).__name__}>"


@lru_cache(_MODULES_KEPT)
def _calls(path: str) -> Mapping[int, str]:
    """The texts of all log calls in a source file, by each of their lines."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[int, str] = {}
    for node in ast.walk(tree):  # outer calls come first, so that inner ones have the last word
        if isinstance(node, ast.Call) and (text := _logged(node)) is not None:
            found |= dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), text)
    return found


def _logged(call: ast.Call) -> str | None:
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in _METHODS:
        return None
    if "log" not in ast.unparse(call.func.value).lower():
        return None
    position = 1 if call.func.attr == "log" else 0
    return _text(call.args[position]) if len(call.args) > position else None


def _text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_text, parts))
        case ast.FormattedValue(value=value):
            return f"{{{ast.unparse(value)}}}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
        case _:
            return f"{{{ast.unparse(node)}}}"
