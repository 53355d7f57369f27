from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import pytest

from letta_server.turns.request_bodies import is_json, send_as_they_are

SENT_TWICE: Final = """
import asyncio, os
from openai import AsyncOpenAI
from letta_server.turns.request_bodies import send_as_they_are

tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "auto"}}
call = {"id": "call-1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
REQUEST = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "\U0001f375 茶"},
        {"role": "user", "content": [{"type": "text", "text": "look"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [call], "unknown": {"to": ["the", "SDK", 1, 2.5, None]}},
        {"role": "tool", "content": "a garden", "tool_call_id": "call-1"},
    ],
    "tools": [tool],
    "tool_choice": "auto",
    "max_completion_tokens": 16384,
    "temperature": 1.0,
    "extra_body": {"provider": {"order": ["a"]}},
}

async def main():
    for prepared in (lambda client: client, send_as_they_are):
        client = prepared(AsyncOpenAI(api_key="k", base_url=os.environ["MODEL"]))
        await client.chat.completions.create(**REQUEST)
        async with await client.chat.completions.create(**REQUEST, stream=True) as events:
            async for _ in events:
                pass
        await client.chat.completions.create(model="m", messages=REQUEST["messages"])
asyncio.run(main())
"""


class Role(StrEnum):
    USER = "user"


class Client:
    """As much of an ``AsyncOpenAI`` as is used; keeps the request it is given."""

    def __init__(self) -> None:
        self.chat = self.completions = self
        self.given: dict[str, Any] = {}

    async def create(self, **request: Any) -> None:
        self.given = request


@pytest.mark.letta
@pytest.mark.integration
@pytest.mark.xdist_group("letta-server")
def test_body_is_the_one_that_the_sdk_sends(
    run_with_letta: Callable[..., Any], counting_model: Any, tmp_path: Path
) -> None:
    ran = run_with_letta(SENT_TWICE, tmp_path, MODEL=counting_model.url)
    assert ran.returncode == 0, ran.stderr
    assert len(counting_model.bodies) == 6
    assert counting_model.bodies[3:] == counting_model.bodies[:3]
    assert counting_model.bodies[0]["messages"][0]["content"] == "🍵 茶"


async def test_messages_that_are_not_json_go_through_the_sdk() -> None:
    client = send_as_they_are(Client())
    await client.create(messages=[{"role": Role.USER}], tools=[{"type": "function"}], model="m")
    assert client.given == {
        "messages": [{"role": "user"}],
        "model": "m",
        "extra_body": {"tools": [{"type": "function"}]},
    }


@pytest.mark.parametrize("value", [Role.USER, ("a",), {1: "a"}, [{"a": object()}], b"a", {"a": {"b": [{1, 2}]}}])
def test_other_values_than_json_are_recognised(value: Any) -> None:
    assert not is_json(value)


@pytest.mark.parametrize("value", [None, True, 1, 0.5, "a", [], {}, [{"a": [None, {"b": "c"}]}]])
def test_json_is_recognised(value: Any) -> None:
    assert is_json(value)
