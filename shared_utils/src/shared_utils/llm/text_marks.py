"""How models mark thoughts and tool calls in their text, each family of models in its own way."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

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
SECTION_ENDS: Final = {
    opening.lower(): None if closing is None else re.compile(re.escape(closing)) for opening, closing in _SECTIONS
}
CHANNEL_END: Final = re.compile(r"<\|(?:end|call|return)\|>|(?=<\|channel\|>)")
_TOKENS: Final = "im_start|im_end|eot_id|eom_id|endoftext|end_of_text|start|end|return|call"

MARK: Final = re.compile(
    rf"""
    (?P<fence>^[ ]{{0,3}}(?:`{{3,}}|~{{3,}}))
    | (?P<ticks>`+)
    | <(?P<thought>{_THOUGHT_NAMES})(?:\s[^<>]{{0,200}})?>
    | <(?P<call>{_CALL_NAMES})(?:\s[^<>]{{0,200}})?>
    | <(?P<named_call>function=[\w.:-]{{1,100}}|invoke\s{{1,20}}name="[\w.:-]{{1,100}}")\s{{0,100}}>
    | (?P<thought_end></(?:{_THOUGHT_NAMES})\s{{0,100}}>|◁/think▷|(?-i:\[/THINK\])|<\|end_of_thought\|>)
    | (?P<call_end></(?:{_CALL_NAMES}|function)\s{{0,100}}>)
    | (?P<section>(?-i:{"|".join(re.escape(opening) for opening, _ in _SECTIONS)}))
    | <\|channel\|>(?P<channel>analysis|commentary|final)[^<\n]{{0,200}}(?:<\|constrain\|>[^<\n]{{0,40}})?<\|message\|>
    | (?P<token><\|(?:{_TOKENS})\|>(?:(?P<role>assistant)\b)?)
    | (?P<json>^[ \t]*(?=[\[{{])(?!(?-i:\[/?THINK\]|\[TOOL_CALLS\])))
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
MARK_BEGINS: Final = re.compile(r"[<\[{◁`~]")
"""Every mark begins with one of these, behind blanks."""


def _beginnings(words: Iterable[str]) -> str:
    """An expression for each word and everything that each begins with."""
    rests: dict[str, list[str]] = {}
    for word in words:
        rests.setdefault(word[0], []).extend([word[1:]] if word[1:] else [])
    parts = [re.escape(first) + (f"{_beginnings(rest)}?" if rest else "") for first, rest in rests.items()]
    return f"(?:{'|'.join(parts)})"


_NAMES: Final = f"{_THOUGHT_NAMES}|{_CALL_NAMES}".split("|")
_WORDS: Final = (
    *(opening for opening, _ in _SECTIONS),
    *("◁/think▷", "[/THINK]", "<|end_of_thought|>", "<|channel|>", "<function=", "<invoke", "</function"),
    *(f"<|{token}|>" for token in _TOKENS.split("|")),
    *(f"{opening}{name}" for name in _NAMES for opening in ("<", "</")),
)
MOST_PARTIAL: Final = 512
"""Characters that the beginning of a mark has at most."""
PARTIAL_MARK: Final = re.compile(
    rf"""
    (?:^[ ]{{0,3}}(?:`{{1,2}}|~{{1,2}})
    | {_beginnings(_WORDS)}
    | <(?:{"|".join(_NAMES)})\s[^<>]{{0,200}}
    | </(?:{"|".join(_NAMES)}|function)\s{{0,100}}
    | <(?:function=|invoke\s)[^<>]{{0,250}}
    | <\|channel\|>[^<\n]{{0,220}}(?:<(?:\|[a-z|]{{0,12}}(?:>[^<\n]{{0,40}}(?:<(?:\|[a-z|]{{0,10}})?)?)?)?)?
    )\Z
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
"""What may become a mark if more text follows."""


def closing_tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"</{re.escape(name)}\s{{0,100}}>", re.IGNORECASE)
