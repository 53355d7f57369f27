"""What stands between a port and its caller: every call passes through each middleware, and by default through none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from letta_bridge.telemetry.middleware import Middleware, instrumented


class Port:
    async def said(self, words: str) -> str:
        return words

    async def forgotten(self) -> None:
        pass


class Quoting(Middleware):
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def wrap(self, operation: str, call: Callable[..., Any]) -> Callable[..., Any]:
        if operation != "said":
            return call

        async def quoted(words: str) -> str:
            return f"{self.mark}{await call(words)}{self.mark}"

        return quoted


async def test_a_middleware_changes_nothing_by_default() -> None:
    port = Port()
    assert instrumented(port, Middleware()).forgotten == port.forgotten


async def test_the_last_middleware_is_the_outermost() -> None:
    port: Any = instrumented(Port(), Quoting("'"), Quoting('"'))
    assert await port.said("你好") == "\"'你好'\""
    assert await port.said("again") == "\"'again'\""
    assert await port.forgotten() is None


async def test_a_method_the_port_lacks_is_missing() -> None:
    with pytest.raises(AttributeError):
        _ = instrumented(Port(), Quoting("'")).unheard  # type: ignore[attr-defined]
