from __future__ import annotations

from typing import Any

import pytest

from letta_server.turns.tool_schemas import kept


def test_schema_is_generated_once_and_each_caller_may_change_its_own() -> None:
    generated = []

    def generate(module_name: str, function_name: str) -> dict[str, Any]:
        generated.append((module_name, function_name))
        return {"name": function_name, "parameters": {"properties": {}}}

    schema = kept(generate)
    schema("tools", "look")["parameters"]["properties"]["changed"] = {}
    assert schema("tools", "look") == {"name": "look", "parameters": {"properties": {}}}
    assert schema("tools", "listen")["name"] == "listen"
    assert generated == [("tools", "look"), ("tools", "listen")]


def test_failure_is_not_kept() -> None:
    def generate(_module_name: str, function_name: str) -> dict[str, Any]:
        raise ValueError(function_name)

    schema = kept(generate)
    for _ in range(2):
        with pytest.raises(ValueError, match="look"):
            schema("tools", "look")
