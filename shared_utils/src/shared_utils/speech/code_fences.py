"""Fenced code blocks of Markdown, as the splitter and the voice both see them."""

from __future__ import annotations

import re
from typing import Final

OPENING: Final = re.compile(r"[ \t>]*(?P<run>`{3,}(?=[^`\n]*(?:\n|\Z))|~{3,})")
"""A line that opens a block; matched at the line's start, with the whole line or all that there is of it."""
PARTIAL_OPENING: Final = re.compile(r"[ \t>]*(?:`{1,2}|~{1,2})\Z")
"""What may become such a line."""


def closing(run: str) -> re.Pattern[str]:
    """The line, with its end, that closes the block which ``run`` opened."""
    return re.compile(rf"^[ \t>]*{re.escape(run)}{re.escape(run[0])}*[ \t\r]*(?:\n|\Z)", re.MULTILINE)
