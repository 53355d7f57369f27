"""What users see of a model's text while it is being written."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_utils.llm.model_text import text_for_user
from shared_utils.llm.streamed_text import StreamedText

CALL = '{"name": "memory_insert", "arguments": {"label": "human", "new_string": "likes {tea}"}}'
OTHER_CALL = CALL.replace("memory_insert", "get_weather")
MARKS = [
    "<think>", "</think>", "<THINKING type='x'>", "</thinking>", "<think a='`'>", "◁think▷", "◁/think▷", "[THINK]",
    "[/THINK]", "<|begin_of_thought|>", "<|end_of_thought|>", "<tool_call>", "</tool_call>", "<function=f>",
    "</function>", '<invoke name="f">', "</invoke>", "[TOOL_CALLS]", "<|python_tag|>", "<|eom_id|>",
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
    "<|channel|>analysis<|message|>", "<|channel|>final <|constrain|>json<|message|>",
    "<|end|>", "<|start|>assistant", "<|im_start|>", "assistant", "<|im_end|>",
]  # fmt: skip
JSON = [
    CALL, CALL[:30], OTHER_CALL, f"[{CALL}, {CALL}]", '{"name": "', '{"status": "OK", "message": "x", "time": 1}',
    '{"tag": "<think>x</think>"}', '{"name": "Ada", "age": 36}', "[1, 2,\n", "[{", '{"a":\n', '"x"}]', "{}", "{\n",
    "}\n",
]  # fmt: skip
CODE = ["```", "```\n", "```json\n", "~~~\n", "`", "``", "`code`", "```py\nx = [1]\n```\n"]
TEXT = ["hello", "你好。", "a < b > c", "<div>", "</p>", "[x](y)", "think", "</", "<|", "<thi", "nk>", "🙂", "\\", '"',
        "\n", "\n\n", " ", "   ", "\t", "- "]  # fmt: skip
WHOLE = [
    "<think>hm</think>\n hello ",
    "hm, the user greets me.\n</think>\n\nhello",
    "<think>a <think>b</think> c</think>answer",
    "<think>a</think>hello</think>",
    f"Let me keep that.\n```json\n{CALL}\n```\n",
    f"```json\n{OTHER_CALL}\n```",
    f"An example:\n```json\n{OTHER_CALL}\n```\nYou see its name.",
    "The `<think>` tag opens a thought, and `</think>` closes it.",
    "```html\n<think>not mine</think>\n```\nThat is all.",
    "```html\n<think>mine, because nothing closes the block",
    f"<tool_call>\n{CALL}\nNoted!",
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>hi<|return|>",
]
_ASSEMBLIES = st.sampled_from(WHOLE) | st.lists(st.sampled_from(MARKS + JSON + CODE + TEXT) | st.text(max_size=5)).map(
    "".join
)


def parts(text: str, most: int, seed: int) -> Iterator[str]:
    """The text in parts of at most so many characters."""
    cuts = random.Random(seed)
    at = 0
    while at < len(text):
        begun, at = at, at + cuts.randint(1, most)
        yield text[begun:at]


def shown(arriving: Iterable[str]) -> str:
    """What a user has seen at the end, who forgets what turned out to be thoughts."""
    streamed = StreamedText()
    voids = 0
    seen = ""
    takes: list[Callable[[], str]] = [partial(streamed.add, part) for part in arriving]
    for take in [*takes, streamed.end]:
        returned = take()
        seen = returned if streamed.voids != voids else seen + returned
        voids = streamed.voids
    return seen


@pytest.mark.parametrize("text", WHOLE)
@pytest.mark.parametrize("most", [1, 2, 5, 500])
def test_a_streamed_text_is_the_same_as_a_whole_one(text: str, most: int) -> None:
    assert shown(parts(text, most, 0)) == text_for_user(text)


@given(text=_ASSEMBLIES, most=st.sampled_from([1, 2, 5, 20]), seed=st.integers(0, 999))
def test_any_streamed_text_is_the_same_as_a_whole_one(text: str, most: int, seed: int) -> None:
    assert shown(parts(text, most, seed)) == text_for_user(text)


@pytest.mark.parametrize(
    ("arriving", "returned"),
    [
        (["Hello", ", ", "world", ".\n", "Bye"], ["Hello", ",", " world", ".", "\nBye"]),
        (["a < b", " and <b>c</b>"], ["a < b", " and <b>c</b>"]),
        (["a <th", "e> b"], ["a", " <the> b"]),
        (["Hi <thi", "nk>secret", "</thi", "nk> there"], ["Hi", "", "", "  there"]),
        (["[li", "nk](x) {y} ", "\n[z]\n"], ["[li", "nk](x) {y}", " \n[z]"]),
        (["Use `<thi", "nk>` here"], ["Use", " `<think>` here"]),
        (["```py\nx = ", "1\n", "y[2]\n", "```\nDone"], ["```py\nx =", " 1", "\ny[2]", "\n```\nDone"]),
        (['```json\n{"na', 'me": 1}', "\n```\n", "Done"], ["", "", '```json\n{"name": 1}\n```', "\nDone"]),
        (['{"age"', ': 36, "b": [', "]}"], ['{"age"', ': 36, "b":', " []}"]),
        (["{", '"na', 'me": "x"}'], ["", "", '{"name": "x"}']),
    ],
)
def test_text_is_held_only_while_it_may_become_a_mark(arriving: list[str], returned: list[str]) -> None:
    streamed = StreamedText()
    assert [streamed.add(part) for part in arriving] == returned


@given(secret=st.uuids().map(str), before=st.sampled_from(["", "Hello. ", "你好\n"]), seed=st.integers(0, 99))
@pytest.mark.parametrize("mark", ["<think>", "[THINK]", "◁think▷", "<tool_call>", "<|python_tag|>", "<function=f>"])
def test_a_thought_or_call_never_gets_out_in_between(secret: str, before: str, seed: int, mark: str) -> None:
    streamed = StreamedText()
    returned = "".join(map(streamed.add, parts(f"{before}{mark}{secret}", 4, seed))) + streamed.end()
    assert returned == before.strip()
    assert not streamed.voided


def test_a_closing_mark_alone_voids_what_was_returned() -> None:
    streamed = StreamedText()
    assert streamed.add("The user greets me.") == "The user greets me."
    assert streamed.add("\n</think>\n\nHel") == "Hel"
    assert streamed.voided
    assert streamed.voids == 1
    assert streamed.add("lo") + streamed.end() == "lo"
    assert streamed.voids == 1


def test_a_second_closing_mark_voids_again() -> None:
    streamed = StreamedText()
    assert streamed.add("a</think>b") == "b"
    assert streamed.voids == 0, "nothing had been returned"
    assert streamed.add("</think>c") == "c"
    assert streamed.voids == 1
    assert streamed.add("</think>") == ""
    assert streamed.voids == 2


def test_a_stray_closing_mark_at_the_end_voids_nothing() -> None:
    streamed = StreamedText()
    assert streamed.add("<think>a</think>hello</think> \n") + streamed.end() == "hello"
    assert not streamed.voided


@pytest.mark.parametrize(
    "piece", ["{", "[", "<tool_call>{}", "`", "```\n", '{"name":\n', "</think>", "\n\n[", "``` `` ` "]
)
def test_a_hostile_text_is_streamed_in_bounded_time(piece: str) -> None:
    began = time.process_time()
    shown(parts(piece * (65_536 // len(piece)), 8, 0))
    assert time.process_time() - began < 10
