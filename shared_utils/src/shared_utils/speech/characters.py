"""The characters that decide where a sentence ends."""

from __future__ import annotations

import re
from typing import Final

STRONG_ENDS: Final = "。｡！？!?‼⁇⁈⁉؟।۔"
TILDES: Final = "~～〜"
ENDS: Final = f".．…{TILDES}{STRONG_ENDS}"
CLAUSE_ENDS: Final = "，、；：,;:"
CLOSING_QUOTES: Final = "”’」』》〉›»\"'"
CLOSING_BRACKETS: Final = "）)］】〕｝}]"
EMOJI: Final = (
    "[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u231a\u231b\u23e9-\u23fa\ufe0f\u200d\u20e3"
    "\U000e0020-\U000e007f\u3030\u303d]"
)
"""An expression for one character of an emoji."""
BLANKS: Final = re.compile(r"[ \t\r\u3000\xa0]*")
"""Blanks within a line."""
_FACE_BEGINS: Final = r"[(（][^()（）A-Za-z0-9\s\u3041-\u3063\u3066-\u3096\u4e00-\u9fff\uac00-\ud7af]*"
FACE: Final = rf"{_FACE_BEGINS}[)）]"
"""An expression for a face made of characters, which looks like marks: (´・ω・`), (*^_^*), (｡♥‿♥｡)."""
FACE_BEGINS: Final = re.compile(rf"{_FACE_BEGINS}\Z")
CJK: Final = re.compile(
    "[\u2e80-\u2fff\u3005-\u3007\u3021-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
KANA: Final = re.compile("[\u3041-\u30fa\u30fc-\u30ff\uff66-\uff9f]")
_JOINING: Final = re.compile("[\u0300-\u036f\ufe0e\ufe0f\u200d\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")


def end_of(expression: re.Pattern[str], text: str, start: int, end: int) -> int:
    """Behind what the expression matches at ``start``; ``start`` itself where it matches nothing."""
    found = expression.match(text, start, end)
    return start if found is None else found.end()


def is_cjk(character: str) -> bool:
    """Whether it is a letter of a script that is written without blanks between words, or Korean."""
    return character >= "\u2e80" and character.isalnum()


def belong_together(before: str, after: str) -> bool:
    """Whether two characters are of one word, number or sign."""
    if before.isascii() and after.isascii():
        return not before.isspace() and not after.isspace()
    return before == "\u200d" or _JOINING.match(after) is not None
