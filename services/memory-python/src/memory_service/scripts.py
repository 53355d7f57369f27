"""The Lua scripts of this service."""

from __future__ import annotations

from typing import Final

from shared_utils.redis.lua_scripts import SIZES, Script


def _script(name: str) -> Script:
    return Script.of(SIZES.source + Script.read(__package__ or "", name).source)


CLAIM: Final = _script("claim")
ADOPT: Final = _script("adopt")
SETTLE: Final = _script("settle")
RELEASE: Final = _script("release")
REMEMBER: Final = _script("remember")
REPLACE_TAIL: Final = _script("replace_tail")
ANSWER: Final = _script("answer")
