"""One pass over a model's text that arrives in parts: leaves out thoughts, and tool calls written as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from shared_utils.llm.text_marks import (
    CHANNEL_END,
    MARK,
    MARK_BEGINS,
    MOST_PARTIAL,
    PARTIAL_MARK,
    SECTION_ENDS,
    closing_tag,
)
from shared_utils.llm.tool_call_text import Brackets, call_end, document_end, may_be_call, may_be_json

_MOST_OBJECTS: Final = 16
"""JSON values looked at in one pass; bounds what a text made of brackets costs."""
_MOST_CLOSING: Final = 160
"""Characters of a mark that closes something."""
_NEVER: Final = re.compile(r"(?!)")


class TextPass:
    """What is left of a text, from the left; blanks before it are left out as well.

    Code, and JSON that is no call, protect the marks inside them if they are closed. Until that is known, they are let
    through up to the first mark inside.
    """

    def __init__(self) -> None:
        self.voids = 0
        """Times when a closing mark showed that everything before it was thoughts."""
        self._text = ""
        """What is not decided yet, behind one character of what is."""
        self._done = 0
        """Up to here the text has been let through or left out."""
        self._place = 0
        """Here the search for marks goes on; it may be before ``_done``, at what protects its inside."""
        self._complete = False
        self._skips: re.Pattern[str] | None = None
        """Everything is left out up to this."""
        self._kept: list[str] = []
        self._begun = False
        """Something but blanks was let through."""
        self._seen = False
        """Something but blanks was in the text that is no longer held."""
        self._objects = 0
        self._had_thoughts = False
        self._never_closed: set[str] = set()
        """Names of marks that nothing further on closes: each is searched for once."""
        self._forget()

    def add(self, text: str) -> str:
        """Take the next part of the text, and return what is now certain to be left."""
        self._text += text
        return self._run()

    def end(self, text: str = "") -> str:
        """Take the last part of the text, and return the rest of what is left."""
        self._complete = True
        self._text += text
        return self._run()

    def idle(self) -> bool:
        """Whether nothing is held and no mark is open: what follows without a mark is let through as it is."""
        return self._begun and self._skips is None and self._place == self._done == len(self._text)

    def let_through(self, text: str) -> None:
        """Remember that a text without marks went by while this was idle; its last character is no blank."""
        self._text = text[-1]
        self._done = self._place = 1
        self._seen = True

    def _run(self) -> str:
        while self._step():
            pass
        cut = min(self._done, self._place) - 1
        if cut > 0:
            self._seen = self._seen or not self._text[:cut].isspace()
            self._text = self._text[cut:]
            self._done -= cut
            self._place -= cut
        left = "".join(self._kept)
        self._kept.clear()
        return left

    def _step(self) -> bool:
        """Decide what comes next; False: nothing can be decided."""
        text = self._text
        if self._skips is not None:
            return self._skip(self._skips)
        mark = MARK.search(text, self._place) if MARK_BEGINS.search(text, self._place) is not None else None
        if not self._complete:
            begun = self._partial(self._place)
            if mark is None or begun < mark.start():
                self._keep(begun)
                self._place = begun
                return False
        if mark is None:
            self._keep(len(text))
            self._place = len(text)
            return False
        if mark.start() > self._place:
            self._place = mark.start()
            self._forget()
        place = self._passed(mark)
        if place is None:
            self._keep(mark.start())
            return False
        self._place = place
        self._forget()
        return True

    def _forget(self) -> None:
        """Begin to look at another mark. The offsets are those from ``_place``."""
        self._searched = 0
        """Up to here nothing closes it."""
        self._probed = 0
        """Up to here nothing inside has to be left out."""
        self._brackets: Brackets | None = None

    def _partial(self, place: int) -> int:
        """Where the end of the text may become a mark; the text's length if nowhere."""
        text = self._text
        words = len(text.rstrip(" \t"))
        line = words == 0 or text[words - 1] == "\n"
        ends = words if line and words >= place else len(text)
        begins = MARK_BEGINS.search(text, max(place, len(text) - MOST_PARTIAL))
        found = PARTIAL_MARK.search(text, max(place, len(text) - MOST_PARTIAL)) if begins is not None else None
        return ends if found is None else min(ends, found.start())

    def _passed(self, mark: re.Match[str]) -> int | None:
        """Where the search goes on behind a mark; None: what follows will say."""
        return self._HANDLERS[mark.lastgroup or ""](self, mark)

    def _thought(self, mark: re.Match[str]) -> int:
        self._had_thoughts = True
        return self._section(mark, closing_tag(mark["thought"]))

    def _channel(self, mark: re.Match[str]) -> int | None:
        return self._end_of_thoughts(mark) if mark["channel"].lower() == "final" else self._section(mark, CHANNEL_END)

    def _family(self, mark: re.Match[str]) -> int | None:
        closing = SECTION_ENDS[mark["section"].lower()]
        return self._call_alone(mark) if closing is None else self._section(mark, closing)

    def _section(self, mark: re.Match[str], closing: re.Pattern[str]) -> int:
        self._skips = closing
        return self._leave_out(mark.start(), mark.end())

    def _stray(self, mark: re.Match[str]) -> int:
        return self._leave_out(mark.start(), mark.end())

    def _skip(self, closing: re.Pattern[str]) -> bool:
        """Leave out everything up to the closing mark."""
        found = closing.search(self._text, self._place)
        end = found.end() if found is not None else len(self._text)
        if found is None and not self._complete:
            end = max(self._place, end - _MOST_CLOSING)
        self._done = self._place = end
        if found is not None:
            self._skips = None
        return found is not None

    def _token(self, mark: re.Match[str]) -> int | None:
        start = mark.start("role") if mark["role"] else mark.end()
        rest = self._text[start : start + len("assistant") + 1].lower()
        if not self._complete and "assistant".startswith(rest):
            return None
        return self._leave_out(mark.start(), mark.end())

    def _end_of_thoughts(self, mark: re.Match[str]) -> int | None:
        """Leave out all before a closing mark: many templates have the opening one in the prompt."""
        stray = self._had_thoughts and self._is_blank(mark.end())
        if stray and not self._complete:
            return None
        self._leave_out(mark.start(), mark.end())
        if not stray:
            self._kept.clear()
            self._begun = False
            self.voids += 1
        return mark.end()

    def _call(self, mark: re.Match[str]) -> int | None:
        """A call between two tags. Where the second is missing, the call goes, and what was said after it stays."""
        name = mark["call"] or re.split(r"[=\s]", mark["named_call"], maxsplit=1)[0]
        if name not in self._never_closed:
            closed = closing_tag(name).search(self._text, max(mark.end(), mark.start() + self._searched))
            if closed is not None:
                return self._leave_out(mark.start(), closed.end())
            if not self._complete:
                self._searched = len(self._text) - mark.start() - _MOST_CLOSING
                return None
            self._never_closed.add(name)
        return self._leave_out(mark.start(), call_end(self._text, mark.end()) or len(self._text))

    def _call_alone(self, mark: re.Match[str]) -> int | None:
        """A call behind a mark that nothing closes."""
        start = mark.end()
        while start < len(self._text) and self._text[start].isspace():
            start += 1
        if start == len(self._text) and not self._complete:
            return None
        if self._text[start : start + 1] in {"{", "["} and not self._is_written(start):
            return None
        end = call_end(self._text, start)
        if end is not None:
            return self._leave_out(mark.start(), end)
        self._skips = _NEVER
        return self._leave_out(mark.start(), start)

    def _span(self, mark: re.Match[str]) -> int | None:
        """Behind a code span, which is kept."""
        text = self._text
        if mark.end() == len(text) and not self._complete:
            return None
        run = mark["ticks"]
        search = max(mark.end(), mark.start() + self._searched)
        paragraph_end = text.find("\n\n", max(mark.end(), search - 1))
        within = paragraph_end if paragraph_end >= 0 else len(text)
        closed = re.compile(rf"(?<!`){run}(?!`)").search(text, search, within)
        if closed is not None and (closed.end() < len(text) or self._complete):
            return closed.end()
        if paragraph_end >= 0 or self._complete:
            return mark.end()
        self._searched = len(text.rstrip("`")) - mark.start()
        self._protect(mark, mark.end())
        return None

    def _block(self, mark: re.Match[str]) -> int | None:
        """Behind a code block, which is kept unless all it holds is a tool call."""
        text = self._text
        run = mark["fence"].strip()
        line_end = text.find("\n", mark.end())
        if line_end < 0 or (self._complete and self._is_blank(line_end)):
            return mark.end() if self._complete else None
        closing = re.compile(rf"^[ ]{{0,3}}{re.escape(run)}{run[0]}*[ \t]*$", re.MULTILINE)
        closed = closing.search(text, max(line_end, mark.start() + self._searched))
        if closed is not None and closed.end() == len(text) and not self._complete:
            closed = None
        if closed is None and not self._complete:
            self._searched = text.rfind("\n") - mark.start()
            if not self._is_blank(line_end) and not may_be_call(text, line_end):
                self._protect(mark, line_end)
            return None
        end = closed.end() if closed is not None else len(text)
        inside = text[line_end : closed.start() if closed is not None else end]
        is_call = self._is_call(inside, mark.start(), end)
        if is_call is None:
            return None
        if is_call:
            return self._leave_out(mark.start(), end)
        # A block that is never closed was cut off, and may as well be a stray mark: what follows is looked at.
        return end if closed is not None else line_end

    def _is_call(self, inside: str, start: int, end: int) -> bool | None:
        """Whether the code block from ``start`` to ``end`` is a tool call; an example beside an explanation is none."""
        found = call_end(inside, 0)
        if found is None or inside[found:].strip():
            return False
        if call_end(inside, 0, known_tools_only=True) is not None:
            return True
        if self._seen or self._text[:start].strip() or not self._is_blank(end):
            return False
        return True if self._complete else None

    def _json(self, mark: re.Match[str]) -> int | None:
        """Behind a JSON document, which is data whatever its texts hold; a tool call is left out."""
        text, start = self._text, mark.end()
        if self._objects < _MOST_OBJECTS:
            if not self._complete and PARTIAL_MARK.match(text, start):
                return None
            if not self._is_written(start) and may_be_json(text, start):
                if not may_be_call(text, start):
                    self._protect(mark, start)
                return None
            end = call_end(text, start)
            if end is not None:
                self._objects += 1
                return self._leave_out(mark.start(), end)
            end = document_end(text, start)
            if end is not None:
                self._objects += 1
                return end
        self._objects += 1
        return start + 1

    def _is_written(self, start: int) -> bool:
        """Whether the JSON value at ``start`` has its end, or is none."""
        if self._complete:
            return True
        if self._brackets is None:
            self._brackets = Brackets()
        return self._brackets.end(self._text, start) is not None or self._brackets.exhausted

    def _protect(self, mark: re.Match[str], inside: int) -> None:
        """Let through what stands between ``inside`` and the first mark that would count if nothing protected it."""
        text = self._text
        at = max(inside, mark.start() + self._probed)
        begun = self._partial(at)
        while (found := MARK.search(text, at)) is not None and found.start() < begun:
            if found["ticks"] and found.end() < len(text):
                at = found.end()
            elif found["ticks"]:
                at = found.start()
                break
            elif found.lastgroup == "json" and found.end() < begun and not may_be_call(text, found.end()):
                at = found.end() + 1
            else:
                at = begun = found.start()
        else:
            at = max(at, begun)
        self._probed = at - mark.start()
        self._keep(max(begun, at))

    def _is_blank(self, start: int) -> bool:
        """Whether nothing but blanks follows."""
        return not self._text[start:].strip()

    def _leave_out(self, start: int, end: int) -> int:
        self._keep(start)
        self._done = end
        return end

    def _keep(self, end: int) -> None:
        if end <= self._done:
            return
        text = self._text[self._done : end]
        self._done = end
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        self._kept.append(text)

    _HANDLERS: Final[Mapping[str, Callable[[TextPass, re.Match[str]], int | None]]] = {
        "fence": _block,
        "ticks": _span,
        "thought": _thought,
        "call": _call,
        "named_call": _call,
        "thought_end": _end_of_thoughts,
        "call_end": _stray,
        "section": _family,
        "channel": _channel,
        "token": _token,
        "json": _json,
    }
