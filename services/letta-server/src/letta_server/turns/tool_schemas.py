"""Keeps the JSON schemas of Letta's own tools, which Letta generates from their source each time it reads an agent."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

from letta_server.replacement import replace


def install() -> None:
    """Install the hook. Imports parts of Letta.

    Raises:
        LettaServerError: the function is not the one the hook was written for.
    """
    replace("letta.schemas.tool:get_json_schema_from_module", kept)


def kept(original: Callable[[str, str], dict[str, Any]]) -> Callable[[str, str], dict[str, Any]]:
    """``original``, called once for each function of each module; each caller gets a copy of its own to change."""
    once = cache(original)

    def schema(module_name: str, function_name: str) -> dict[str, Any]:
        return copy.deepcopy(once(module_name, function_name))

    return schema
