"""Detects the language of a message: Chinese, or one that is answered in English."""

from __future__ import annotations

import re
from typing import Final, Literal

Language = Literal["zh", "en"]

_HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_KANA: Final = re.compile("[\u3040-\u30ff]")


def language_of(text: str) -> Language | None:
    """Chinese where the text holds Chinese characters and no Japanese ones, English where it holds any other letter.

    Returns:
        None where there is no letter to judge by, such as in an emoji.
    """
    if _HAN.search(text) and not _KANA.search(text):
        return "zh"
    return "en" if any(letter.isalpha() for letter in text) else None
