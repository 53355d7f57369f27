"""Cuts a reply into sentences while it is still being written.

Own rules instead of a library: docs/dependencies.md says why. Never more than a sentence is held, and nothing is
looked at twice but the few characters around an end that is not decided yet.
"""

from __future__ import annotations

import re
from typing import Final

from shared_utils.speech import code_fences
from shared_utils.speech.english import ends_at_stop, ends_before_cjk

_WAIT: Final = -1
_GO_ON: Final = 0

_STRONG: Final = "。｡！？!?‼⁇⁈⁉؟।۔"
_ENDS: Final = rf"\n.．…~～{_STRONG}"
_SOFT: Final = "，、；：,;:"
_END: Final = re.compile(rf"[{_ENDS}`]")
_END_OR_CLAUSE: Final = re.compile(rf"[{_ENDS}`{_SOFT}]")
_RUN: Final = re.compile(rf"[.．…~～{_STRONG}]+")
_STRONG_RUN: Final = re.compile(rf"[.．…~～]*[{_STRONG}]")
_EMOJI: Final = (
    "[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u231a\u231b\u23e9-\u23fa\ufe0f\u200d\u20e3"
    "\U000e0020-\U000e007f\u3030\u303d]"
)
_EMOTICON: Final = r"(?:[:;=]-?[)D(P3]|<3|\^_?\^|[xX]D)(?!\w)"
_EMOJIS: Final = re.compile(rf"[ \t]*(?:{_EMOJI}+|{_EMOTICON})")
_QUOTES: Final = "”’」』》〉›»\"'"
_BRACKETS: Final = "）)］】〕｝}]"
_CLOSER: Final = re.compile(rf"(?P<quote>[{re.escape(_QUOTES)}])|(?P<bracket>[{re.escape(_BRACKETS)}])|</\w{{1,10}}>")
_PARTIAL_TAG: Final = re.compile(r"<(?:/\w{0,10})?\Z")
_MARKUP: Final = {mark: re.compile(rf"(?<=\S){re.escape(mark)}+|{re.escape(mark)}+(?=\S)") for mark in '*_`"'}
"""Marks that open and close alike, one run of them each; one with blanks on both sides is none."""
_OPENERS: Final = {"”": "“", "’": "‘", "」": "「", "』": "『", '"': '"', "'": "'"}
_BLANKS: Final = re.compile(r"[ \t\r\u3000\xa0]*")
_LIST_MARK: Final = re.compile(r"\s*(?:[-*+>#] *)*(?:\d{1,3}|[A-Za-z])\Z|.*[:：]\s*\d{1,2}\Z", re.DOTALL)
_SOFT_PLACE: Final = re.compile(
    r"[，、；：][”’」』）]*|(?:[,;:][\"')]*|(?:\.\.\.|[.…])[”’」』）\"']*)(?=\s|[^\x00-\u2e7f])|…+|——"
)
_NAMES: Final = ("Yahoo", "Jeopardy")
"""Names that are written with an exclamation mark."""
_MOST_CODE: Final = 4_000
"""Characters of a code block in one piece: it is not spoken, so that its length matters for memory only."""


class SentenceSplitter:
    """The sentences of one text that arrives in parts.

    The pieces of :meth:`add`, :meth:`flush` and :meth:`end` add up to the text, character for character, and do not
    depend on how the text was cut into parts. Blanks behind a sentence, with one line end, belong to its piece. A line
    end always ends a piece. A fenced code block is one piece, or several of 4,000 characters.
    """

    def __init__(self, *, max_characters: int = 200, first_characters: int | None = None) -> None:
        """Begin a text.

        Args:
            max_characters: a longer sentence is cut at the last clause within so many characters, else at a blank,
                else anywhere but within a word or a number.
            first_characters: the first piece, and the first behind each :meth:`flush`, ends at a clause as soon as it
                has so many characters, so that speech begins early. None: with the sentence.
        """
        self._max = max_characters
        self._first = first_characters
        self._early = first_characters is not None
        self._held = ""
        self._scanned = 0
        """Up to here the held text ends no piece."""
        self._line_start = True
        self._fence: re.Pattern[str] | None = None
        """Closes the code block that the held text begins in."""
        self._open: dict[str, int] = dict.fromkeys(_MARKUP, 0)
        """Runs of each mark in the line so far, in pieces that have left."""
        self._introduced = False
        """A quotation is open that a colon or comma stands before."""

    def add(self, text: str) -> list[str]:
        """Take the next part of the text, and return the pieces that are now decided."""
        self._held += text
        return self._decided(complete=False)

    def flush(self) -> list[str]:
        """All that is held, because nothing may follow for a while; the text goes on afterwards.

        The beginning of a mark that may open a code block stays: alone it says nothing, and cut it would be no mark.
        """
        if self._line_start and self._fence is None and code_fences.PARTIAL_OPENING.fullmatch(self._held.lstrip("\n")):
            return []
        pieces = self.end()
        self._early = self._first is not None
        return pieces

    def end(self) -> list[str]:
        """All that is held, because nothing follows."""
        pieces = self._decided(complete=True)
        if self._held:
            pieces.append(self._held)
            self._left(self._held)
            self._held = ""
        self._scanned = 0
        return pieces

    def _decided(self, *, complete: bool) -> list[str]:
        pieces: list[str] = []
        start = 0
        while start < len(self._held) and (end := self._next_end(start, complete=complete)) > 0:
            pieces.append(self._held[start:end])
            self._left(pieces[-1])
            start = self._scanned = end
        if start:
            self._held = self._held[start:]
            self._scanned -= start
        return pieces

    def _left(self, piece: str) -> None:
        """Remember what the next piece's marks depend on."""
        if not piece.isspace():
            self._early = False
        self._line_start = piece.endswith("\n")
        if self._line_start:
            self._open = dict.fromkeys(_MARKUP, 0)
            self._introduced = False
            return
        for mark, runs in _MARKUP.items():
            if mark in piece:
                self._open[mark] += len(runs.findall(piece))
        for closer, opener in _OPENERS.items():
            if (at := piece.rfind(opener)) >= 0 and closer not in piece[at + 1 :]:
                self._introduced = _is_introduced(piece, 0, at)

    def _next_end(self, start: int, *, complete: bool) -> int:
        """Where the piece that begins at ``start`` ends; 0 or less while that is open."""
        held = self._held
        if self._fence is not None:
            return self._code_end(self._fence, start, start, complete=complete)
        limit = start + self._max
        # Nothing further on is looked at, so that a hostile text is not held for ever.
        view = min(len(held), limit + self._max)
        complete = complete or view < len(held)
        at = max(start, self._scanned)
        while (found := (_END_OR_CLAUSE if self._early else _END).search(held, at, view)) is not None:
            at = found.start()
            if at >= limit:
                break
            end = self._end_at(at, start, view, complete=complete)
            if end > 0:
                return end
            if end == _WAIT:
                self._scanned = at
                return _WAIT
            at = self._scanned
        self._scanned = at if found is not None else view
        if view > limit and held[limit:view].strip():
            return self._cut(start, limit)
        return _GO_ON

    def _end_at(self, at: int, start: int, view: int, *, complete: bool) -> int:
        """The end of the piece if the mark at ``at`` ends it, else how to go on; then ``_scanned`` says where."""
        mark = self._held[at]
        self._scanned = at + 1
        if mark == "\n":
            return _GO_ON if self._held[start:at].isspace() or at == start else at + 1
        if mark in "`~":
            end = self._fence_at(at, start, view, complete=complete)
            if end != _GO_ON or mark == "`":
                return end
        if mark in _SOFT:
            return self._clause_at(at, start, view, complete=complete)
        run = _RUN.match(self._held, at, view)
        assert run is not None
        if run.end() == view and not complete:
            return _WAIT
        self._scanned = run.end()
        if self._opens("`", start, at):
            return _GO_ON
        return self._behind(run[0], start, at, view, complete=complete)

    def _fence_at(self, at: int, start: int, view: int, *, complete: bool) -> int:
        """The same for a mark that may open a code block."""
        line = self._held.rfind("\n", start, at) + 1
        if line == 0:
            if not self._line_start:
                return _GO_ON
            line = start
        if self._held[line:at].strip(" \t>"):
            return _GO_ON
        if code_fences.PARTIAL_OPENING.match(self._held, line, view) and not complete:
            return _WAIT
        opening = code_fences.OPENING.match(self._held, line, view)
        if opening is None:
            return _GO_ON
        first_line = self._held.find("\n", opening.end())
        if first_line < 0 and not complete and view - start < self._max:
            return _WAIT
        self._fence = code_fences.closing(opening["run"])
        self._scanned = first_line + 1 if first_line >= 0 else view
        return self._code_end(self._fence, self._scanned, start, complete=complete)

    def _code_end(self, closing: re.Pattern[str], search: int, start: int, *, complete: bool) -> int:
        """The end of the code block that the piece is in, or of its part."""
        held = self._held
        search = max(search, held.rfind("\n", start, self._scanned) + 1)
        found = closing.search(held, search, min(len(held), start + _MOST_CODE))
        if found is not None and (found[0].endswith("\n") or (complete and found.end() == len(held))):
            self._fence = None
            return found.end()
        self._scanned = max(self._scanned, min(len(held), start + _MOST_CODE))
        if len(held) <= start + _MOST_CODE:
            return _WAIT
        return held.rfind("\n", start, start + _MOST_CODE) + 1 or start + _MOST_CODE

    def _clause_at(self, at: int, start: int, view: int, *, complete: bool) -> int:
        """The same for a clause of a piece that may end early."""
        place = _SOFT_PLACE.match(self._held, at, view)
        end = _BLANKS.match(self._held, place.end() if place else at + 1, view)
        assert end is not None
        if end.end() == view:
            return _GO_ON if complete else _WAIT
        if place is None or self._held[end.end()] in f"\n{_QUOTES}{_BRACKETS}":
            return _GO_ON
        assert self._first is not None
        return end.end() if len(self._held[start : place.end()].lstrip()) >= self._first else _GO_ON

    def _behind(self, run: str, start: int, at: int, view: int, *, complete: bool) -> int:
        """The same for a run of end marks, by what stands behind it."""
        held = self._held
        strong = _STRONG_RUN.match(run) is not None
        behind, kind = self._closers(at + len(run), start, view)
        blanks = _BLANKS.match(held, behind, view)
        assert blanks is not None
        following = blanks.end()
        if following == view or _PARTIAL_TAG.match(held, following, view):
            return following if complete and following == view and strong else _GO_ON if complete else _WAIT
        character = held[following]
        if character == "\n":
            return following + 1
        before = held[at - 1] if at > start else ""
        apart = following > behind
        if not apart:
            if character in f"{_SOFT}—–":
                return _GO_ON
            if held[behind - 1] == "]" and character == "(":
                return _GO_ON
        if not strong:
            ends = self._ends_weakly(run, before, start, at, following, view, complete=complete)
            if ends is None:
                return _WAIT
            if not ends:
                return _GO_ON
        elif not self._ends_strongly(run, before, start, at, following):
            return _GO_ON
        if kind is not None and (_is_cjk(character) or character.islower()):
            introduced = kind == "quote" and _is_cjk(character) and self._was_introduced(start, behind)
            return following if introduced else _GO_ON
        return following

    def _closers(self, at: int, start: int, view: int) -> tuple[int, str | None]:
        """Behind the marks at ``at`` that belong to the sentence before, and whether a quotation or a bracket closed."""
        held = self._held
        kind = None
        while at < view:
            mark = held[at]
            if mark in _MARKUP:
                if not self._opens(mark, start, at):
                    break
                if mark == '"':
                    kind = "quote"
                while at < view and held[at] == mark:
                    at += 1
            elif (found := _CLOSER.match(held, at, view)) is not None:
                kind = found.lastgroup or kind
                at = found.end()
            elif (found := _EMOJIS.match(held, at, view)) is not None:
                at = found.end()
            else:
                break
        return at, kind

    def _opens(self, mark: str, start: int, at: int) -> bool:
        """Whether a run of the mark is open at ``at``."""
        runs = self._open[mark]
        if mark in self._held[start:at]:
            runs += len(_MARKUP[mark].findall(self._held, start, at))
        return runs % 2 == 1

    def _ends_strongly(self, run: str, before: str, start: int, at: int, following: int) -> bool:
        """Whether a run with a mark that ends sentences ends this one."""
        held = self._held
        if run[0] == "｡" and not (before.isalnum() or before in "ﾞﾟｰ"):
            return False  # an eye or a tear of a face made of characters
        after = held[at + len(run)]
        if not run[-1].isascii() or not after.isascii() or after.isspace():
            return not (run == "!" and held.endswith(_NAMES, start, at))
        if after.isalnum():
            return bool(before) and _is_cjk(before) and "://" not in held[start:at].rsplit(maxsplit=1)[-1]
        return after in "\"'([{*_`)]}<:;^" and not (run == "!" and after == "[")

    def _ends_weakly(
        self, run: str, before: str, start: int, at: int, following: int, view: int, *, complete: bool
    ) -> bool | None:
        """Whether a run of full stops, dots or tildes ends the sentence; None while that is open."""
        held = self._held
        after = held[at + len(run)]
        character = held[following]
        if run[0] in "~～":
            return bool(before) and not before.isspace() and not before.isdigit() and _is_cjk(character)
        if run not in {".", "．"}:
            return False
        if before.isdigit() and after.isdigit():
            return False
        if run == "．":
            return True
        if _LIST_MARK.match(held, start, at):
            return False
        if _is_cjk(after):
            return ends_before_cjk(held, start, at)
        if after.isalnum():
            return bool(before) and _is_cjk(before) and after.isupper()
        if following == at + 1 and after.isascii() and after not in "\"'([{*_`<":
            return False
        return ends_at_stop(held, start, at, following, view, complete=complete)

    def _was_introduced(self, start: int, behind: int) -> bool:
        """Whether a colon or comma stands before the quotation that closes just before ``behind``."""
        held = self._held
        for closer in reversed(held[start:behind]):
            if closer in _OPENERS:
                opener = held.rfind(_OPENERS[closer], start, held.rfind(closer, start, behind))
                return self._introduced if opener < 0 else _is_introduced(held, start, opener)
        return False

    def _cut(self, start: int, limit: int) -> int:
        """The end of a piece that is longer than it may be."""
        held = self._held
        end = 0
        for place in _SOFT_PLACE.finditer(held, start, limit + 1):
            if place.end() <= limit:
                end = place.end()
        if not end or not held[start:end].strip():
            blank = max(held.rfind(blank, start + 1, limit + 1) for blank in " \t\u3000")
            end = blank if blank > 0 and held[start:blank].strip() else 0
        if not end:
            end = limit
            while end > start + 1 and _is_glued(held[end - 1], held[end]):
                end -= 1
            if end == start + 1:
                end = limit
        blanks = _BLANKS.match(held, end)
        return blanks.end() if blanks is not None else end


def _is_introduced(text: str, start: int, opener: int) -> bool:
    return opener > start and text[start:opener].rstrip()[-1:] in {"：", "，", ":", ","}


def _is_cjk(character: str) -> bool:
    return character >= "\u2e80" and character.isalnum()


def _is_glued(before: str, after: str) -> bool:
    """Whether two characters are of one word, number or sign."""
    if before.isascii() and after.isascii():
        return not before.isspace() and not after.isspace()
    return (
        after in "\ufe0f\u200d\u20e3"
        or before == "\u200d"
        or "\u0300" <= after <= "\u036f"
        or "\U0001f3fb" <= after <= "\U0001f3ff"
    )
