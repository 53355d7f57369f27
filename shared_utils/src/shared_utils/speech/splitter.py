"""Cuts a reply into sentences while it is still being written.

Own rules instead of a library: docs/dependencies.md says why. Never more than a sentence is held, and nothing is looked
at twice but the few characters around an end that is not decided yet.
"""

from __future__ import annotations

import re
from typing import Final

from shared_utils.speech import code_fences, sentence_ends
from shared_utils.speech.characters import (
    BLANKS,
    CLAUSE_ENDS,
    CLOSING_BRACKETS,
    CLOSING_QUOTES,
    EMOJI,
    ENDS,
    belong_together,
    end_of,
    is_cjk,
)
from shared_utils.speech.open_marks import OpenMarks, is_either

_WAIT: Final = -1
"""What follows will say."""
_GO_ON: Final = 0
"""No end is there."""

_END: Final = re.compile(rf"[\n{ENDS}`]")
_END_OR_CLAUSE: Final = re.compile(rf"[\n{ENDS}`{CLAUSE_ENDS}]")
_RUN: Final = re.compile(rf"[{ENDS}]+")
_EMOTICON: Final = r"(?:[:;=]-?[)D(P3]|<3|\^_?\^|[xX]D)(?!\w)"
_EMOJIS: Final = re.compile(rf"[ \t]*(?:{EMOJI}+|{_EMOTICON})")
_CLOSER: Final = re.compile(
    rf"(?P<quote>[{re.escape(CLOSING_QUOTES)}])|(?P<bracket>[{re.escape(CLOSING_BRACKETS)}])|</\w{{1,10}}>"
)
_PARTIAL_TAG: Final = re.compile(r"<(?:/\w{0,10})?\Z")
_CLAUSE: Final = re.compile(
    r"[，、；：][”’」』）]*|(?:[,;:][\"')]*|(?:\.\.\.|[.…])[”’」』）\"']*)(?=\s|[^\x00-\u2e7f])|…+|——"
)
_CLAUSE_MARKS: Final = re.compile(rf"[{CLAUSE_ENDS}][”’」』）\"')]*")
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
        self._marks = OpenMarks()

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
        """Remember what the next piece depends on."""
        self._early = self._early and piece.isspace()
        self._line_start = piece.endswith("\n")
        if self._line_start:
            self._marks = OpenMarks()
        else:
            self._marks.left(piece)

    def _next_end(self, start: int, *, complete: bool) -> int:
        """Where the piece that begins at ``start`` ends; 0 or less while that is open."""
        held = self._held
        if self._fence is not None:
            return self._code_end(self._fence, start, start, complete=complete)
        limit = start + self._max
        # Nothing further on is looked at, so that a hostile text is not held for ever.
        known = min(len(held), limit + self._max)
        complete = complete or known < len(held)
        marks = _END_OR_CLAUSE if self._early else _END
        while (found := marks.search(held, max(start, self._scanned), known)) is not None and found.start() < limit:
            end = self._end_at(found.start(), start, known, complete=complete)
            if end > 0:
                return end
            if end == _WAIT:
                self._scanned = found.start()
                return _WAIT
        self._scanned = known if found is None else found.start()
        if held[limit:known].strip():
            return self._cut(start, limit)
        return known if known == limit + self._max else _GO_ON

    def _end_at(self, at: int, start: int, known: int, *, complete: bool) -> int:
        """The end of the piece if the mark at ``at`` ends it, else how to go on; then ``_scanned`` says where."""
        mark = self._held[at]
        self._scanned = at + 1
        if mark == "\n":
            return at + 1 if self._held[start:at].strip() else _GO_ON
        if mark in "`~":
            end = self._fence_at(at, start, known, complete=complete)
            if end != _GO_ON or mark == "`":
                return end
        if mark in CLAUSE_ENDS:
            return self._clause_at(at, start, known, complete=complete)
        return self._run_at(at, start, known, complete=complete)

    def _fence_at(self, at: int, start: int, known: int, *, complete: bool) -> int:
        """The same for a mark that may open a code block."""
        held = self._held
        line = held.rfind("\n", start, at) + 1 or start
        if (line == start and not self._line_start) or held[line:at].strip(" \t>"):
            return _GO_ON
        if not complete and code_fences.PARTIAL_OPENING.match(held, line, known):
            return _WAIT
        opening = code_fences.OPENING.match(held, line, known)
        if opening is None:
            return _GO_ON
        inside = held.find("\n", opening.end()) + 1
        if not inside and not complete:
            return _WAIT
        self._fence = code_fences.closing(opening["run"])
        self._scanned = inside or known
        return self._code_end(self._fence, self._scanned, start, complete=complete)

    def _code_end(self, closing: re.Pattern[str], search: int, start: int, *, complete: bool) -> int:
        """The end of the code block that the piece is in, or of its part."""
        held = self._held
        most = start + _MOST_CODE
        search = max(search, held.rfind("\n", start, self._scanned) + 1)
        found = closing.search(held, search, min(len(held), most))
        if found is not None and (found[0].endswith("\n") or (complete and found.end() == len(held))):
            self._fence = None
            return found.end()
        self._scanned = max(self._scanned, min(len(held), most))
        if len(held) <= most:
            return _WAIT
        return held.rfind("\n", start, most) + 1 or most

    def _clause_at(self, at: int, start: int, known: int, *, complete: bool) -> int:
        """The same for a clause of a piece that may end early."""
        held = self._held
        behind = end_of(_CLAUSE, held, at, known)
        end = end_of(BLANKS, held, behind, known)
        if known in {end, end_of(_CLAUSE_MARKS, held, at, known)}:
            return _GO_ON if complete else _WAIT
        if behind == at or held[end] == "\n" or held[end] in f"{CLOSING_QUOTES}{CLOSING_BRACKETS}":
            return _GO_ON
        return end if len(held[start:behind].lstrip()) >= (self._first or 0) else _GO_ON

    def _run_at(self, at: int, start: int, known: int, *, complete: bool) -> int:
        """The same for a run of end marks."""
        held = self._held
        end = end_of(_RUN, held, at, known)
        self._scanned = end
        if self._marks.is_open("`", held, start, at):
            return _GO_ON
        behind, closed = self._closers(end, start, known)
        following = end_of(BLANKS, held, behind, known)
        if following < known and held[following] == "\n":
            return following + 1
        if following == known or _PARTIAL_TAG.match(held, following, known):
            return _GO_ON if complete else _WAIT
        marks = sentence_ends.EndMarks(held, start, at, held[at:end], behind, following, known, complete)
        ends = sentence_ends.ends(marks)
        if ends is None:
            return _WAIT
        return following if ends and not (closed and self._narrates(closed, marks)) else _GO_ON

    def _closers(self, at: int, start: int, known: int) -> tuple[int, str | None]:
        """Behind the marks at ``at`` that belong to the sentence before, and whether a quote or a bracket closed."""
        held = self._held
        closed = None
        while at < known:
            mark = held[at]
            if is_either(mark):
                if not self._marks.is_open(mark, held, start, at):
                    break
                closed = "quote" if mark == '"' else closed
                at += len(held[at:known]) - len(held[at:known].lstrip(mark))
            elif (found := _CLOSER.match(held, at, known)) is not None:
                closed = found.lastgroup or closed
                at = found.end()
            elif (end := end_of(_EMOJIS, held, at, known)) > at:
                at = end
            else:
                break
        return at, closed

    def _narrates(self, closed: str, marks: sentence_ends.EndMarks) -> bool:
        """Whether the sentence goes on behind a quotation or bracket that closed in it: “Really?” he asked."""
        if not is_cjk(marks.next):
            return marks.next.islower()
        return closed != "quote" or not self._marks.introduced(marks.text, marks.start, marks.behind)

    def _cut(self, start: int, limit: int) -> int:
        """The end of a piece that is longer than it may be."""
        held = self._held
        clauses = [clause.end() for clause in _CLAUSE.finditer(held, start, limit + 1) if clause.end() <= limit]
        blanks = [held.rfind(blank, start + 1, limit + 1) for blank in " \t\u3000"]
        for end in (max(clauses, default=start), max(blanks)):
            if held[start : max(start, end)].strip():
                return end_of(BLANKS, held, end, len(held))
        end = limit
        while end > start + 1 and belong_together(held[end - 1], held[end]):
            end -= 1
        return end if end > start + 1 else limit
