"""Messages that Letta lists and cannot export become rows that an agent file can hold."""

from __future__ import annotations

import json
from typing import Any

from letta_bridge.letta.listed_rows import listed_row, own_otid

DATE = "2026-11-29T20:30:23+00:00"


def entry(message_type: str, **fields: Any) -> dict[str, Any]:
    return {"id": "message-1", "message_type": message_type, "date": DATE, "otid": "otid", "name": None, **fields}


def test_a_user_message_keeps_its_otid() -> None:
    listed = [entry("user_message", content="half  here")]
    assert listed_row(listed) == {
        "role": "user",
        "created_at": DATE,
        "content": [{"type": "text", "text": "half  here"}],
    }
    assert own_otid(listed) == "otid"


def test_content_of_several_parts_is_unchanged() -> None:
    parts = [{"type": "text", "text": "see"}, {"type": "image", "source": {}}]
    assert listed_row([entry("user_message", content=parts)])["content"] == parts


def test_text_reasoning_and_calls_of_one_message_are_joined() -> None:
    call = {"name": "memory_insert", "arguments": '{"label": "human"}', "tool_call_id": "call-1"}
    listed = [
        entry("reasoning_message", reasoning="let me think"),
        entry("assistant_message", content="noted"),
        entry("tool_call_message", tool_call=call, tool_calls=[call]),
    ]
    row = listed_row(listed)
    assert row["role"] == "assistant"
    assert [part["type"] for part in row["content"]] == ["reasoning", "text"]
    assert row["tool_calls"] == [
        {
            "id": "call-1",
            "type": "function",
            "function": {"name": "memory_insert", "arguments": '{"label": "human"}'},
        }
    ]
    assert own_otid(listed) is None, "Letta derives it from the message's id"


def test_the_envelope_of_a_tool_result_is_reconstructed() -> None:
    result = {"tool_call_id": "call-1", "status": "error", "tool_return": "no such 块", "stdout": None, "stderr": None}
    row = listed_row([entry("tool_return_message", name="memory_insert", tool_call_id="call-1", tool_returns=[result])])
    assert (row["role"], row["name"], row["tool_call_id"]) == ("tool", "memory_insert", "call-1")
    [returned] = row["tool_returns"]
    assert returned["status"] == "error"
    assert json.loads(returned["func_response"]) == {"status": "Failed", "message": "no such 块", "time": DATE}
    assert row["content"] == [{"type": "text", "text": returned["func_response"]}]


def test_a_tool_result_without_a_list_is_read_from_the_entry_itself() -> None:
    listed = [entry("tool_return_message", tool_call_id="call-1", status="success", tool_return="done")]
    [returned] = listed_row(listed)["tool_returns"]
    assert json.loads(returned["func_response"])["status"] == "OK"
