"""What users see of what models write."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_utils.llm.model_text import text_for_user

CALL = '{"name": "memory_insert", "arguments": {"label": "human", "new_string": "likes {tea}"}}'


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        # thoughts
        ("<think>hm</think>\n hello ", "hello"),
        ("<think>hm", ""),
        ("Hello. <think>the user wants", "Hello."),
        ("hm, the user greets me.\n</think>\n\nhello", "hello"),
        ("<THINKING type='x'>hm</THINKING>你好", "你好"),
        ("<thought>a</thought><reasoning>b</reasoning>c", "c"),
        ("<REASONING_SCRATCHPAD>a</REASONING_SCRATCHPAD>c", "c"),
        ("<think>a <think>b</think> c</think>answer", "answer"),
        ("<think>what is `<think>`?</think>It is a tag.", "It is a tag."),
        ("<think>```\nunclosed</think>hello", "hello"),
        ("<think>a</think>hello</think>", "hello"),
        ("<think></think>\n\nhello", "hello"),
        ("one<think>a</think> two", "one two"),
        ("◁think▷hm◁/think▷hello", "hello"),
        ("[THINK]hm[/THINK]hello", "hello"),
        ("  [THINK]hm[/THINK]hello", "hello"),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>hi<|return|>", "hi"),
        ("it`s\n\n<think>secret</think>`fine`", "it`s\n\n`fine`"),
        ("```<think>secret", "```"),
        ("[see <think>secret</think> this]", "[see  this]"),
        # tool calls
        (f"<tool_call>\n{CALL}\n</tool_call>", ""),
        (f"Noted!\n<tool_call>\n{CALL}\n</tool_call>", "Noted!"),
        (f"<tool_call>\n{CALL}\nNoted!", "Noted!"),
        (f"<tool_call>{CALL[:40]}", ""),
        (CALL, ""),
        (CALL[:40], ""),
        (f"Let me keep that.\n{CALL}\nDone.", "Let me keep that.\n\nDone."),
        (f"[{CALL}, {CALL}]", ""),
        (f"```json\n{CALL}\n```", ""),
        (f"Let me keep that.\n```json\n{CALL}\n```\n", "Let me keep that."),
        (f"```json\n{CALL[:40]}", ""),
        ('{"type": "function", "function": {"name": "f", "arguments": "{\\"a\\": 1}"}}', ""),
        ('{"type": "function", "name": "f", "parameters": {}}', ""),
        ('{"name": "f", "arguments": {"a": 1,}}', ""),
        ('<function=memory_insert>{"label": "human"}</function>hello', "hello"),
        ('<function_calls><invoke name="f"><parameter name="a">1</parameter></invoke></function_calls>hi', "hi"),
        (f"[TOOL_CALLS] [{CALL}]", ""),
        (f"<|python_tag|>{CALL}<|eom_id|>hello", "hello"),
        ("<｜tool▁calls▁begin｜>x<｜tool▁calls▁end｜>hello", "hello"),
        (f"<think>a</think>{CALL}", ""),
        ('{"name": "', ""),
        ('{"name": "memory_insert", "', ""),
        ('Noted!\n[{"name": "memory_insert", "arg', "Noted!"),
        # results of tools
        ('{"status": "OK", "message": {"message": "No results.", "results": []}, "time": "2026-11-30"}', ""),
        ('{"status": "Failed", "message": "no such block", "time": "now"}\nI noted it.', "I noted it."),
        ('```json\n{"status": "OK", "message": "fine", "time": "now"}\n```', ""),
        ('{"status": "OK", "message": {\n  "message": "一年有', ""),
        # marks of the chat format
        ("hello<|im_end|>", "hello"),
        ("<|im_start|>assistant\nhello<|im_end|>", "hello"),
    ],
)  # fmt: skip
def test_thoughts_and_tool_calls_are_left_out(written: str, shown: str) -> None:
    assert text_for_user(written) == shown


@pytest.mark.parametrize(
    "ordinary",
    [
        "",
        "你好,很高兴见到你!",
        "if a < b and b > c: print('think')",
        "The `<think>` tag opens a thought, and `</think>` closes it.",
        "```html\n<think>not mine</think>\n```\nThat is all.",
        "~~~\n</think>\n~~~",
        "An example of a call:\n```json\n" + CALL.replace("memory_insert", "get_weather") + "\n```\nYou see its name.",
        '{"name": "Ada", "age": 36}',
        '{"name": "ls", "arguments": ["-l"]}',
        '{"name": "get_weather", "description": "tells it", "parameters": {"type": "object"}}',
        '{"tag": "<think>x</think>"}',
        '{"status": "OK"}',
        '{"status": ["OK"], "message": "x", "time": 1}',
        '{"status": "OK", "message": "x", "time": 1, "id": 7}',
        'It answers:\n```json\n{"status": "OK", "message": "x", "time": "now"}\n```\nwith the time.',
        '[{"name": "Ada", "age": 36}, {"name": "Bo',
        "[1, 2, 3]\n[a]: https://example.org\n[link](x) and [ ] to do",
        "<b>bold</b> <thinker>x</thinker> <function> <invoke>",
        "x <- c(1, 2); y -> z; a <think b",
        "I think, therefore I am. </b> [think] {think}",
        "| a | b |\n|---|---|\n| <br> | {x} |",
        "{\n\n[\n{ unclosed",
        "``` unclosed",
        "😀 <3 >_<",
    ],
)
def test_ordinary_text_is_unchanged(ordinary: str) -> None:
    assert text_for_user(ordinary) == ordinary


@pytest.mark.parametrize("written", [" \n hello\n", "hello ", "\u3000hello\n\n"])
def test_blanks_around_a_text_are_left_out(written: str) -> None:
    assert text_for_user(written) == "hello"


_PIECES = st.sampled_from(
    ["你好。", "我想<5", "a < b > c", "<div>", "</p>", "`code`", "```py\nx = [1]\n```\n", "\n", " ", "{}", "[x]",
     "{'a': 1}", '{"name": "Ada"}', "think", "</", "<|", "|>", "《思考》", "<!-- no -->", "🙂", "1. ", "- ",
     "\t", "\\", '"', "~~~\n"]
)  # fmt: skip
_ORDINARY = (
    st.lists(_PIECES | st.text(max_size=8))
    .map("".join)
    .filter(
        lambda text: (
            not re.search(r"(?i)<[/|]?(think|thought|reason|tool|im_|eot|seed|inner|function|invoke)|[◁｜]", text)
        )
    )
)


@given(text=_ORDINARY)
def test_no_ordinary_text_is_changed(text: str) -> None:
    assert text_for_user(text) == text.strip()


_MARKS = st.sampled_from(
    ["<think>", "</think>", "<tool_call>", "</tool_call>", CALL, CALL[:30], "```", "`", "\n", "[THINK]", "[/THINK]"]
)


@given(text=st.lists(_MARKS | _PIECES).map("".join))
def test_text_for_user_is_idempotent(text: str) -> None:
    once = text_for_user(text)
    assert text_for_user(once) == once


@given(before=st.text("ab \n好", max_size=20), secret=st.uuids().map(str), after=st.text("cd \n吗", max_size=20))
def test_a_thought_never_gets_out(before: str, secret: str, after: str) -> None:
    assert secret not in text_for_user(f"{before}<think>{secret}</think>{after}")
    assert secret not in text_for_user(f"{before}<think>{secret}{after}")
    assert secret not in text_for_user(f"{secret}{before}</think>{after}x")


@pytest.mark.parametrize(
    "piece", ["{", "[", "<tool_call>{}", "`", "```\n", "<think", '{"name":\n', "</think>", "\n\n[", "``` `` ` "]
)
def test_a_hostile_text_is_read_in_bounded_time(piece: str) -> None:
    began = time.process_time()
    text_for_user(piece * (262_144 // len(piece)))
    assert time.process_time() - began < 10
