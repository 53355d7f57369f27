"""Cleans a model's text for its user: removes thoughts, and tool calls written as text.

Models mark both in their text in many ways, and servers that should take the marks out often do not. Code is left
alone: a text *about* these marks keeps them where it quotes them as code. Whole texts are cleaned here;
:class:`~shared_utils.llm.streamed_text.StreamedText` cleans one that arrives in parts, by the same passes.
"""

from __future__ import annotations

from typing import Final

from shared_utils.llm.text_pass import TextPass

MOST_PASSES: Final = 4
"""Passes over a text, because a removal may join its surroundings to a mark or a tool call."""


def text_for_user(text: str) -> str:
    """The part of a model's text that is meant for its user, without surrounding blanks; may be empty.

    Args:
        text: one whole message of the model, as it wrote it.
    """
    # Every mark and every tool call has one of these. Most texts have none, which is seen a hundred times as fast.
    if "<" not in text and "[" not in text and "{" not in text and "◁" not in text:
        return text.strip()
    text = text.lstrip()
    for _ in range(MOST_PASSES):
        before, text = text, TextPass().end(text)
        if text == before:
            break
    return text.rstrip()
