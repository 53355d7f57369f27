from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scripted_model import conversation, script
from scripted_model.script import Reply, ToolCall

Requests = Callable[..., dict[str, Any]]


def _reply(request: dict[str, Any], **options: bool) -> Reply:
    return script.reply(conversation.read(request), **options)


def _insert(line: str) -> ToolCall:
    return ToolCall("memory_insert", {"label": "human", "new_string": line})


def test_a_stated_fact_is_stored_first(request_of: Requests) -> None:
    assert _reply(request_of("My name is Ada", human="")).call == _insert("The user's name is Ada.")


def test_and_confirmed_after_the_tool_has_answered(request_of: Requests, used: Any) -> None:
    stored = used("memory_insert", {"label": "human", "new_string": "用户叫小明。"})

    assert _reply(request_of("我叫小明", *stored, human="")).text == "记住了：你叫小明。"


def test_a_fact_memory_holds_is_not_stored_again(request_of: Requests) -> None:
    assert _reply(request_of("My name is Ada", human="The user's name is Ada.")).text == "Noted: Your name is Ada."


def test_line_numbers_some_models_are_shown_do_not_matter(request_of: Requests) -> None:
    assert (
        _reply(request_of("What is my name?", human="1→ Hello\n2→ The user's name is Ada.")).text == "Your name is Ada."
    )


def test_a_new_value_replaces_the_old_line(request_of: Requests) -> None:
    assert _reply(request_of("My name is Bob", human="The user's name is Ada.")).call == ToolCall(
        "memory_replace",
        {"label": "human", "old_string": "The user's name is Ada.", "new_string": "The user's name is Bob."},
    )


def test_facts_of_turns_answered_elsewhere_are_stored_in_order_before_answering(
    request_of: Requests, used: Any
) -> None:
    told = ["My name is Ada", {"role": "assistant", "content": "Nice."}, "我的猫叫年糕", "What do you know about me?"]
    first = used("memory_insert", {"label": "human", "new_string": "The user's name is Ada."})
    second = used("memory_insert", {"label": "human", "new_string": "用户的猫叫年糕。"})

    assert _reply(request_of(*told, human="")).call == _insert("The user's name is Ada.")
    assert _reply(request_of(*told, *first, human="")).call == _insert("用户的猫叫年糕。")
    assert _reply(request_of(*told, *first, *second, human="")).text == "Your name is Ada. Your 猫 is called 年糕."


def test_a_system_note_may_report_them_too(request_of: Requests) -> None:
    note = {"role": "system", "content": "While you were away:\nUser: I like tea\nAssistant: fine"}

    assert _reply(request_of(note, "hello", human="")).call == _insert("The user likes tea.")


def test_block_changed_by_an_operator_is_not_reverted(request_of: Requests, used: Any) -> None:
    before = ["My name is Ada", *used("memory_insert", {"label": "human", "new_string": "The user's name is Ada."})]

    answer = _reply(request_of(*before, "What is my name?", human="The user's name is Carol."))

    assert answer.text == "Your name is Carol."


def test_a_refused_edit_is_admitted_and_not_repeated(request_of: Requests, used: Any) -> None:
    refused = used("memory_insert", {"label": "human", "new_string": "The user likes tea."}, status="Failed")

    answer = _reply(request_of("I like tea", *refused, human=""))

    assert answer.text == "I could not store this: You like tea."


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is my name?", "Your name is Ada."),
        ("我叫什么名字？", "你叫Ada。"),
        ("What do I like?", "You like oolong tea and 茉莉花茶."),
        ("我喜欢什么？", "你喜欢oolong tea、茉莉花茶。"),
        ("我的猫叫什么？", "你的猫叫年糕。"),
        ("What is my dog called?", "I do not know that yet."),
        ("我的狗叫什么？", "这个我还不知道。"),
        ("How are you?", "echo: How are you?"),
        ("今天天气不错", "echo: 今天天气不错"),
    ],
)
def test_answers_from_the_block(request_of: Requests, question: str, answer: str) -> None:
    human = "The user's name is Ada.\nThe user likes oolong tea.\n用户喜欢茉莉花茶。\n用户的猫叫年糕。"

    assert _reply(request_of(question, human=human)) == Reply(answer)


def test_model_without_memory_uses_the_conversation(request_of: Requests) -> None:
    earlier = [{"role": "system", "content": "Be brief."}, "我喜欢乌龙茶", {"role": "assistant", "content": "好的"}]

    assert _reply(request_of(*earlier, "我喜欢什么？")).text == "你喜欢乌龙茶。"
    assert _reply(request_of(*earlier)).text == "记住了：你喜欢乌龙茶。"


def test_letta_s_envelopes_are_opened_and_heartbeats_passed_over(request_of: Requests) -> None:
    packed = '{"type": "user_message", "message": "hello", "time": "now"}'

    assert _reply(request_of(packed, '{"type": "heartbeat", "reason": "x"}', human="")).text == "echo: hello"


def test_agents_that_may_only_speak_through_a_tool(request_of: Requests) -> None:
    tools: dict[str, Any] = {
        "send_message": {"properties": {"message": {}, "thinking": {}}},
        "core_memory_append": {"properties": {"label": {}, "content": {}, "request_heartbeat": {}}},
    }

    storing = _reply(request_of("I like tea", human="", tools=tools)).call
    saying = _reply(request_of("hello", human="", tools=tools)).call

    assert storing == ToolCall(
        "core_memory_append", {"label": "human", "content": "The user likes tea.", "request_heartbeat": True}
    )
    assert saying is not None
    assert saying.name == "send_message"
    assert saying.arguments["message"] == "echo: hello"


def test_a_summary_keeps_the_facts(request_of: Requests) -> None:
    prompt = {"role": "system", "content": "Summarize the conversation."}

    answer = _reply(request_of(prompt, "User: My name is Ada\nAssistant: hello Ada"))

    assert answer.text == "Summary of 2 lines. The user's name is Ada."


def test_a_tool_call_can_be_forced(request_of: Requests) -> None:
    assert _reply(request_of("hello", human=""), must_store=True).call == _insert("The user asked to remember: hello")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [None],
        [{}],
        [{"role": "user"}],
        [{"role": "user", "content": 5}],
        [{"role": "assistant", "tool_calls": [None, {}]}],
    ],
)
def test_requests_of_an_odd_shape_are_echoed(messages: list[Any]) -> None:
    assert _reply({"messages": messages, "tools": [None, {}, {"function": None}]}) == Reply("echo: ")


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        (
            [
                {"role": "assistant", "content": "One."},
                {
                    "role": "system",
                    "content": "(The user interrupted you there. The user heard only what the message "
                    "before this one says.)",
                },
            ],
            "You heard only this: One.",
        ),
        (
            [
                {"role": "assistant", "content": "One. Two."},
                {"role": "system", "content": "(The user interrupted you. The next message is what the user heard.)"},
                {"role": "assistant", "content": "One."},
            ],
            "You heard only this: One.",
        ),
        (
            [
                {"role": "assistant", "content": "An earlier answer."},
                {"role": "system", "content": "(The user interrupted you before hearing anything of your answer.)"},
            ],
            "I was not interrupted, or you heard nothing.",
        ),
        ([{"role": "assistant", "content": "One."}], "I was not interrupted, or you heard nothing."),
    ],
)
def test_it_tells_what_it_was_told_of_an_interrupt(request_of: Requests, told: list[Any], answer: str) -> None:
    assert _reply(request_of("Count for me.", *told, "What did I hear?", human="")).text == answer


def test_it_tells_so_in_chinese_too(request_of: Requests) -> None:
    note = {"role": "system", "content": "(用户在那里打断了你。你的回答用户只听到上一条消息中的内容,其余没有说出。)"}
    told = ["数一数。", {"role": "assistant", "content": "一。"}, note]
    assert _reply(request_of(*told, "我刚才听到了什么？", human="")).text == "你只听到：一。"
