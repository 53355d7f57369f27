"""Whether a run of end marks ends its sentence, by what stands around it."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from shared_utils.speech import english
from shared_utils.speech.characters import CLAUSE_ENDS, FACE_BEGINS, STRONG_ENDS, TILDES, is_cjk

_STRONG: Final = re.compile(rf"[^{STRONG_ENDS}]*[{STRONG_ENDS}]")
_LIST_MARK: Final = re.compile(r"\s*(?:[-*+>#] *)*(?:\d{1,3}|[A-Za-z])\Z|.*(?<!\d)[:：]\s*\d{1,2}\Z", re.DOTALL)
_NAMES: Final = ("Yahoo", "Jeopardy")
"""Names that are written with an exclamation mark."""
_MOST_FACE: Final = 12
"""Characters before an end mark in a face made of characters."""
_OPENING: Final = frozenset("“‘「『《【（(")
_AFTER_ASCII: Final = frozenset("\"'([{*_`)]}<:;^")
"""What may stand at once behind an ASCII end mark that ends a sentence; behind others stands more of an address."""


class EndMarks(NamedTuple):
    """A run of end marks, and what is known of the text around it."""

    text: str
    start: int
    """Where the sentence begins."""
    at: int
    """Where the run begins."""
    run: str
    behind: int
    """Behind the quotes, brackets, emoji and marks of Markdown that belong to the run."""
    following: int
    """Where the first character that is no blank follows."""
    known: int
    """Up to here the text may be looked at."""
    complete: bool
    """Nothing follows there."""

    @property
    def before(self) -> str:
        """The character before the run, empty where the sentence begins with it."""
        return self.text[self.at - 1] if self.at > self.start else ""

    @property
    def after(self) -> str:
        """The character at once behind the run."""
        return self.text[self.at + len(self.run)]

    @property
    def next(self) -> str:
        """The first character that is no blank and none of the closing marks."""
        return self.text[self.following]


def is_strong(run: str) -> bool:
    """Whether a run ends a sentence in general; a full stop, dots and tildes do so in places."""
    return _STRONG.match(run) is not None


def ends(marks: EndMarks) -> bool | None:
    """Whether the marks end the sentence; None while that depends on text that is not known."""
    if marks.following == marks.behind and _goes_on_at_once(marks):
        return False
    if is_strong(marks.run):
        return _strong(marks)
    if marks.run[0] in TILDES:
        return _tilde(marks)
    return marks.run in {".", "．"} and _stop(marks)


def _goes_on_at_once(marks: EndMarks) -> bool:
    return marks.next in f"{CLAUSE_ENDS}—–" or (marks.next == "(" and marks.text[marks.behind - 1] == "]")


def _strong(marks: EndMarks) -> bool:
    before, after = marks.before, marks.after
    if FACE_BEGINS.search(marks.text, max(marks.start, marks.at - _MOST_FACE), marks.at):
        return False
    if not marks.run[-1].isascii() or not after.isascii() or after.isspace():
        return not (marks.run == "!" and marks.text.endswith(_NAMES, marks.start, marks.at))
    if after.isalnum():
        return is_cjk(before) and "://" not in marks.text[marks.start : marks.at].rsplit(maxsplit=1)[-1]
    return after in _AFTER_ASCII and not (marks.run == "!" and after == "[")


def _tilde(marks: EndMarks) -> bool:
    if not marks.before.strip() or marks.before.isdigit():
        return False
    return is_cjk(marks.next) or marks.next in _OPENING or (marks.after.isspace() and marks.next.isupper())


def _stop(marks: EndMarks) -> bool | None:
    text, start, at, before, after = marks.text, marks.start, marks.at, marks.before, marks.after
    if before.isdigit() and after.isdigit():
        return False
    if marks.run == "．":
        return True
    if _LIST_MARK.match(text, start, at) or (after.isascii() and not after.isspace() and after not in _AFTER_ASCII):
        return is_cjk(before) and after.isupper()
    if is_cjk(after):
        return english.ends_before_cjk(text, start, at)
    return english.ends_at_stop(text, start, at, marks.following, marks.known, complete=marks.complete)
