from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.letta]

_PROGRAM: Final = """
import json
from letta.schemas.letta_message_content import ReasoningContent, TextContent
from letta.schemas.message import Message
from openai.types.chat import chat_completion_message_function_tool_call as tool_calls
from letta_server.turns import thoughts

function = tool_calls.Function(name="look", arguments="{}")
call = tool_calls.ChatCompletionMessageFunctionToolCall(id="call-1", type="function", function=function)
thought = ReasoningContent(reasoning="I look.", is_native=True, signature=None)
text = TextContent(text="Wait.")
messages = {
    "thought and call": Message(role="assistant", content=[thought], tool_calls=[call]),
    "thought, text and call": Message(role="assistant", content=[thought, text], tool_calls=[call]),
    "text and call": Message(role="assistant", content=[text], tool_calls=[call]),
    "call": Message(role="assistant", content=None, tool_calls=[call]),
    "text": Message(role="assistant", content=[text]),
}
def sent():
    return {name: message.to_openai_dict() for name, message in messages.items()}
before = sent()
thoughts.install()
print("SENT" + json.dumps([before, sent()]))
"""


def test_only_a_call_whose_thoughts_stand_alone_is_sent_in_another_way(
    run_with_letta: Callable[..., Any], tmp_path: Path
) -> None:
    ran = run_with_letta(_PROGRAM, tmp_path)
    [said] = [line.removeprefix("SENT") for line in ran.stdout.splitlines() if line.startswith("SENT")] or [ran.stderr]
    before, after = json.loads(said)
    # What Letta does with thoughts beside a text; the hook does the same with thoughts alone.
    assert before["thought, text and call"]["reasoning_content"] == "I look."
    assert "reasoning_content" not in before["thought and call"]
    assert after["thought and call"] == before["thought and call"] | {"reasoning_content": "I look."}
    assert {name for name in before if before[name] != after[name]} == {"thought and call"}
