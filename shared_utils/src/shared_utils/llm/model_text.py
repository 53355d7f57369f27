"""Cleans a model's text for its user: removes thoughts, and tool calls written as text.

Models mark both in their text in many ways, and servers that should take the marks out often do not. Code is left
alone: a text *about* these marks keeps them where it quotes them as code. Only whole texts can be cleaned here.
"""

from __future__ import annotations

import re
from typing import Final

from shared_utils.llm.tool_call_text import call_end, document_end

_THOUGHT_NAMES: Final = (
    "think|thinking|thought|thoughts|reasoning|reasoning_scratchpad|inner_thoughts|inner_monologue|seed:think"
)
_CALL_NAMES: Final = (
    "tool_call|tool_calls|function_call|function_calls|tool_code|tool_response|tool_result|minimax:tool_call"
)
_SECTIONS: Final = (
    ("◁think▷", "◁/think▷"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ("<|tool_call_begin|>", "<|tool_call_end|>"),
    ("<|python_tag|>", "<|eom_id|>"),
    ("[TOOL_CALLS]", None),
)
"""Marks of one family of models each, and what ends the section; None is the end of the text."""
_CLOSING: Final = {opening.lower(): closing for opening, closing in _SECTIONS}

_MARK: Final = re.compile(
    rf"""
    (?P<fence>^[ ]{{0,3}}(?:`{{3,}}|~{{3,}}))
    | (?P<ticks>`+)
    | <(?P<thought>{_THOUGHT_NAMES})(?:\s[^<>]{{0,200}})?>
    | <(?P<call>{_CALL_NAMES})(?:\s[^<>]{{0,200}})?>
    | <(?P<named_call>function=[\w.:-]{{1,100}}|invoke\s+name="[\w.:-]{{1,100}}")\s*>
    | (?P<thought_end></(?:{_THOUGHT_NAMES})\s*>|◁/think▷|(?-i:\[/THINK\])|<\|end_of_thought\|>)
    | (?P<call_end></(?:{_CALL_NAMES}|function)\s*>)
    | (?P<section>(?-i:{"|".join(re.escape(opening) for opening, _ in _SECTIONS)}))
    | <\|channel\|>(?P<channel>analysis|commentary|final)[^<\n]{{0,200}}(?:<\|constrain\|>[^<\n]{{0,40}})?<\|message\|>
    | (?P<token><\|(?:im_start|im_end|eot_id|eom_id|endoftext|end_of_text|start|end|return|call)\|>(?:assistant\b)?)
    | (?P<json>^[ \t]*(?=[\[{{])(?!(?-i:\[/?THINK\]|\[TOOL_CALLS\])))
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
_CHANNEL_END: Final = re.compile(r"<\|(?:end|call|return)\|>|(?=<\|channel\|>)")
_MOST_OBJECTS: Final = 16
"""JSON values looked at in one pass; bounds what a text made of brackets costs."""
_MOST_PASSES: Final = 4
"""Passes over a text, because a removal may join its surroundings to a mark or a tool call."""


def text_for_user(text: str) -> str:
    """The part of a model's text that is meant for its user; may be empty.

    Args:
        text: one whole message of the model, as it wrote it.

    Returns:
        The same text if it contains no thoughts and no tool calls, otherwise the rest without surrounding blanks.
    """
    # Every mark and every tool call has one of these. Most texts have none, which is seen a hundred times as fast.
    if "<" not in text and "[" not in text and "{" not in text and "◁" not in text:
        return text
    for _ in range(_MOST_PASSES):
        if _MARK.search(text) is None:
            return text
        before, text = text, _Cleaning(text).run()
        if text == before:
            return text
    return text


class _Cleaning:
    """One pass over a text, from the left."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._kept: list[str] = []
        self._at = 0
        """Up to here the text has been kept or left out."""
        self._changed = False
        self._objects = 0
        self._had_thoughts = False
        self._never_closed: set[str] = set()
        """Names of marks that nothing further on closes: each is searched for once."""

    def run(self) -> str:
        place = 0
        while (mark := _MARK.search(self._text, place)) is not None:
            place = self._passed(mark)
        self._keep(len(self._text))
        if not self._changed:
            return self._text
        return "".join(self._kept).strip()

    def _passed(self, mark: re.Match[str]) -> int:
        """Where the search goes on."""
        kind = mark.lastgroup
        if kind in {"fence", "ticks"}:
            return self._code(mark)
        if kind == "json":
            return self._json(mark)
        if kind == "thought_end" or (mark["channel"] or "").lower() == "final":
            return self._end_of_thoughts(mark)
        self._had_thoughts = self._had_thoughts or bool(mark["thought"])
        return self._leave_out(mark.start(), self._section_end(mark))

    def _end_of_thoughts(self, mark: re.Match[str]) -> int:
        """Leave out all before a closing mark: many templates have the opening one in the prompt."""
        stray = self._had_thoughts and not self._text[mark.end() :].strip()
        self._leave_out(mark.start(), mark.end())
        if not stray:
            self._kept.clear()
        return mark.end()

    def _section_end(self, mark: re.Match[str]) -> int:
        """The end of a section that is left out; the text's own end where a thought is never closed."""
        start = mark.end()
        if mark["token"] or mark["call_end"]:
            return start
        if (closing := self._closing(mark)) is not None:
            return closing
        # Not closed: the call itself goes, and what was said after it stays.
        return call_end(self._text, start) or len(self._text)

    def _closing(self, mark: re.Match[str]) -> int | None:
        """Behind the mark that closes this one. None where a call has no such mark."""
        if mark["channel"]:
            return _after(_CHANNEL_END, self._text, mark.end())
        if mark["thought"]:
            return _after(_closing_tag(mark["thought"]), self._text, mark.end())
        if mark["section"]:
            closing = _CLOSING[mark["section"].lower()]
            return None if closing is None else _after(re.compile(re.escape(closing)), self._text, mark.end())
        name = mark["call"] or re.split(r"[=\s]", mark["named_call"], maxsplit=1)[0]
        if name in self._never_closed:
            return None
        closed = _closing_tag(name).search(self._text, mark.end())
        if closed is None:
            self._never_closed.add(name)
            return None
        return closed.end()

    def _code(self, mark: re.Match[str]) -> int:
        """Behind a code block or span, which is kept unless all it holds is a tool call."""
        text = self._text
        run = (mark["fence"] or mark["ticks"]).strip()
        if mark["ticks"]:
            paragraph_end = text.find("\n\n", mark.end())
            within = paragraph_end if paragraph_end >= 0 else len(text)
            closed = re.compile(rf"(?<!`){run}(?!`)").search(text, mark.end(), within)
            return closed.end() if closed is not None else mark.end()
        line_end = text.find("\n", mark.end())
        if line_end < 0:
            return mark.end()
        closed = re.compile(rf"^[ ]{{0,3}}{re.escape(run)}{run[0]}*[ \t]*$", re.MULTILINE).search(text, line_end)
        end = closed.end() if closed is not None else len(text)
        if self._is_call(text[line_end : closed.start() if closed is not None else end], mark.start(), end):
            return self._leave_out(mark.start(), end)
        # A block that is never closed was cut off, and may as well be a stray mark: what follows is looked at.
        return closed.end() if closed is not None else line_end

    def _is_call(self, inside: str, start: int, end: int) -> bool:
        """Whether the code block from ``start`` to ``end`` is a tool call; an example beside an explanation is none."""
        found = call_end(inside, 0)
        if found is None or inside[found:].strip():
            return False
        alone = not self._text[:start].strip() and not self._text[end:].strip()
        return alone or call_end(inside, 0, known_tools_only=True) is not None

    def _json(self, mark: re.Match[str]) -> int:
        self._objects += 1
        if self._objects > _MOST_OBJECTS:
            return mark.end() + 1
        end = call_end(self._text, mark.end())
        if end is not None:
            return self._leave_out(mark.start(), end)
        # A whole JSON document is data, whatever its texts hold.
        end = document_end(self._text, mark.end())
        return mark.end() + 1 if end is None else end

    def _leave_out(self, start: int, end: int) -> int:
        self._keep(start)
        self._changed = True
        self._at = end
        return end

    def _keep(self, end: int) -> None:
        self._kept.append(self._text[self._at : end])
        self._at = end


def _closing_tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"</{re.escape(name)}\s*>", re.IGNORECASE)


def _after(closing: re.Pattern[str], text: str, start: int) -> int:
    found = closing.search(text, start)
    return len(text) if found is None else found.end()
