"""The default canned sentences of memory-python, of this and of earlier releases, which did not mark replies."""

from __future__ import annotations

from typing import Final

CHINESE: Final = "我暂时连不上长期记忆，不过你说的我先记下了，稍后再好好回答你。"
ENGLISH: Final = (
    "I cannot reach my long-term memory right now, but I have noted what you said and will come back to it."
)
