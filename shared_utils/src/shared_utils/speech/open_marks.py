"""Which quotations and marks of Markdown are open at a place, also those from pieces that have left."""

from __future__ import annotations

import re
from typing import Final

from shared_utils.speech.characters import FACE

_EITHER: Final = {mark: re.compile(rf"{FACE}|((?<=\S){re.escape(mark)}+|{re.escape(mark)}+(?=\S))") for mark in '*_`"'}
"""Marks that open and close alike: one run of them each; a run between blanks is none."""
_OPENERS: Final = {"”": "“", "’": "‘", "」": "「", "』": "『", '"': '"', "'": "'"}
_INTRODUCING: Final = frozenset("：，:,")


class OpenMarks:
    """The marks of one line."""

    def __init__(self) -> None:
        self._runs = dict.fromkeys(_EITHER, 0)
        """Runs of each mark in pieces that have left."""
        self._introduced = False
        """A quotation is open that a colon or comma stands before."""

    def left(self, piece: str) -> None:
        """Remember what a piece leaves open for the next ones of its line."""
        for mark, runs in _EITHER.items():
            if mark in piece:
                self._runs[mark] += sum(map(bool, runs.findall(piece)))
        for closer, opener in _OPENERS.items():
            if (at := piece.rfind(opener)) >= 0 and closer not in piece[at + 1 :]:
                self._introduced = _introduces(piece, 0, at)

    def is_open(self, mark: str, text: str, start: int, at: int) -> bool:
        """Whether a run of the mark is open at ``at``, in the piece that begins at ``start``."""
        runs = self._runs[mark]
        if mark in text[start:at]:
            runs += sum(map(bool, _EITHER[mark].findall(text, start, at)))
        return runs % 2 == 1

    def introduced(self, text: str, start: int, behind: int) -> bool:
        """Whether a colon or comma stands before the quotation that closes just before ``behind``."""
        for closer in reversed(text[start:behind]):
            if closer in _OPENERS:
                opener = text.rfind(_OPENERS[closer], start, text.rfind(closer, start, behind))
                return self._introduced if opener < 0 else _introduces(text, start, opener)
        return False


def is_either(mark: str) -> bool:
    """Whether the mark opens and closes alike."""
    return mark in _EITHER


def _introduces(text: str, start: int, opener: int) -> bool:
    return text[start:opener].rstrip()[-1:] in _INTRODUCING
