"""The sentences of sentences.json, cut and spoken as their text arrives.

The pieces are compared without the blanks around them. The first of a case are the best, those of "also" are right as
well; the rules behind them:

- 。！？!?｡ end a sentence, with the whole run (?!, ！！, 。。。), then closing quotes and brackets, then emoji and
  marks of Markdown. A line end always ends a piece. A fenced code block is one piece.
- Behind a closing quote the sentence goes on if its narration follows (Chinese or Japanese, or lower case).
- … and ... are pauses, unless an end mark or a line end follows.
- A full stop ends a sentence only before a blank, a line end or Chinese and Japanese text, and not in abbreviations,
  initials, marks of lists, numbers, addresses and names of files.
- ~ and ～ end a sentence where they stand neither behind a digit nor before anything but Chinese and Japanese text.
- With "max", a piece has so many characters at most: it ends at the last clause before, else at a blank.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_utils.llm.streamed_text import StreamedText
from shared_utils.speech import SentenceSplitter, SpeechText

CASES: Final[list[dict[str, Any]]] = json.loads(Path(__file__).with_name("sentences.json").read_text("utf-8"))
_EACH_CASE = pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{n}" for n, case in enumerate(CASES)])


def parts(text: str, most: int, seed: int) -> Iterator[str]:
    """The text in parts of at most so many characters."""
    cuts = random.Random(seed)
    at = 0
    while at < len(text):
        begun, at = at, at + cuts.randint(1, most)
        yield text[begun:at]


def split(text: str, *, most: int = 3, seed: int = 0, **options: int) -> list[str]:
    splitter = SentenceSplitter(**options)
    pieces = [piece for part in parts(text, most, seed) for piece in splitter.add(part)]
    return pieces + splitter.end()


def stripped(pieces: list[str]) -> list[str]:
    return [piece.strip() for piece in pieces if piece.strip()]


def options_of(case: dict[str, Any]) -> dict[str, int]:
    return {"max_characters": case["max"]} if "max" in case else {}


@_EACH_CASE
def test_a_text_is_cut_into_its_sentences(case: dict[str, Any]) -> None:
    splitter = SentenceSplitter(**options_of(case))
    said = StreamedText()
    pieces = splitter.add(said.add(case["text"])) + splitter.add(said.end()) + splitter.end()
    assert stripped(pieces) in [case["pieces"], *case.get("also", [])]


@_EACH_CASE
def test_the_cut_does_not_depend_on_how_the_text_arrives(case: dict[str, Any]) -> None:
    text, options = case["text"], options_of(case)
    whole = split(text, most=len(text), seed=1, **options)
    assert "".join(whole) == text
    for most, seed in ((1, 0), (2, 1), (3, 2), (3, 3), (40, 4), (40, 5)):
        assert split(text, most=most, seed=seed, **options) == whole


@_EACH_CASE
def test_what_is_spoken_is_free_of_markdown(case: dict[str, Any]) -> None:
    said, splitter, speech = StreamedText(), SentenceSplitter(**options_of(case)), SpeechText()
    pieces = [piece for part in parts(case["text"], 3, 0) for piece in splitter.add(said.add(part))]
    pieces += splitter.add(said.end()) + splitter.end()
    spoken = [words for words in map(speech.of, pieces) if words]
    if "spoken" in case:
        assert spoken == case["spoken"]
    assert not any(mark in words for words in spoken for mark in ("```", "**", "](", "🎉", "<think"))


def test_there_are_many_cases() -> None:
    assert len({case["text"] for case in CASES}) >= 250


_TEXTS = st.lists(
    st.sampled_from([case["text"] for case in CASES])
    | st.sampled_from(["\n", "```", "```py\n", "~~~\n", "**", "*", "_", "`", '"', "“", "”", "」", "。", "!", ".", "…",
                       " ", "😀", "3", ".5", "Mr", "U.S", "https://a.b/c", "\r\n", "好", "a", "，", ", ", "~", "<b>",
                       "</b", "\u3000", "(´・ω・`)", "(", ")"])
    | st.text(max_size=10)
).map("".join)  # fmt: skip


@given(text=_TEXTS, most=st.integers(1, 30), seed=st.integers(0, 99), limit=st.sampled_from([8, 40, 200]),
       first=st.sampled_from([None, 4]))  # fmt: skip
def test_any_text_is_kept_whole_and_cut_the_same_however_it_arrives(
    text: str, most: int, seed: int, limit: int, first: int | None
) -> None:
    splitter = SentenceSplitter(max_characters=limit, first_characters=first)
    pieces = [piece for part in parts(text, most, seed) for piece in splitter.add(part)] + splitter.end()
    assert "".join(pieces) == text
    whole = SentenceSplitter(max_characters=limit, first_characters=first)
    assert pieces == whole.add(text) + whole.end()


@given(text=_TEXTS, flushes=st.lists(st.integers(0, 200), max_size=5))
def test_a_flush_loses_nothing(text: str, flushes: list[int]) -> None:
    splitter = SentenceSplitter()
    pieces: list[str] = []
    for number, character in enumerate(text):
        pieces += splitter.add(character)
        if number in flushes:
            pieces += splitter.flush()
    assert "".join(pieces + splitter.end()) == text


def test_a_flush_gives_all_that_is_held() -> None:
    splitter = SentenceSplitter()
    assert splitter.add("Hello there. I will look") == ["Hello there. "]
    assert splitter.flush() == ["I will look"]
    assert splitter.flush() == []
    assert splitter.add(" it up. Done") == [" it up. "]
    assert splitter.end() == ["Done"]


def test_a_flush_does_not_cut_the_mark_of_a_code_block() -> None:
    splitter, speech = SentenceSplitter(), SpeechText()
    pieces = splitter.add("Look:\n``") + splitter.flush() + splitter.add("`py\nx. y\n```\nDone.") + splitter.end()
    assert pieces == ["Look:\n", "```py\nx. y\n```\n", "Done."]
    assert [speech.of(piece) for piece in pieces] == ["Look:", "", "Done."]


@pytest.mark.parametrize(
    ("text", "decided"),
    [
        ("你好。我", ["你好。"]),
        ("你好！”我", []),
        ("第一行\n", ["第一行\n"]),
        ("Hello. H", ["Hello. "]),
        ("Pi is 3.1", []),
        ("太好了！🎉我", ["太好了！🎉"]),
        ("We met in the U.S. Th", []),
        ("We met in the U.S. The ", ["We met in the U.S. "]),
    ],
)
def test_no_text_is_held_longer_than_its_end_needs(text: str, decided: list[str]) -> None:
    splitter = SentenceSplitter()
    assert [piece for part in text for piece in splitter.add(part)] == decided


def test_the_first_piece_may_end_early_at_a_clause() -> None:
    text = "当然可以，今天我们先去公园，然后再去吃饭，最后回家。好吗，朋友？"
    assert split(text, first_characters=4) == [
        "当然可以，",
        "今天我们先去公园，然后再去吃饭，最后回家。",
        "好吗，朋友？",
    ]
    assert split(text, first_characters=8)[0] == "当然可以，今天我们先去公园，"
    assert split("It costs 1,000 yen, I think.", first_characters=4)[0] == "It costs 1,000 yen, "
    assert split("Well, yes.", first_characters=20) == ["Well, yes."]


def test_a_long_code_block_is_not_held_whole() -> None:
    code = "```py\n" + "x = 1. + 2\n" * 2_000 + "```\n"
    pieces = split(code + "Done.", most=7)
    assert pieces[-1] == "Done."
    assert all(len(piece) <= 4_000 for piece in pieces)
    speech = SpeechText()
    assert [speech.of(piece) for piece in pieces] == [""] * (len(pieces) - 1) + ["Done."]


@pytest.mark.parametrize(
    "piece", ["。", ".", "!", "”", "`", "```\n", "\n", " ", "😀", "a", "~", "Mr. ", '"', "<", "1.", "**"]
)
def test_a_hostile_text_is_cut_in_bounded_time_and_pieces(piece: str) -> None:
    text = piece * (20_000 // len(piece))
    pieces = split(text)
    assert "".join(pieces) == text
    assert all(len(each) <= 4_000 for each in pieces)
