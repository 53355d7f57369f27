from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from letta_server import replacement
from letta_server.errors import LettaServerError


def original() -> str:
    return "original"


@pytest.fixture
def letta(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with one function, ``answer``, whose source text is on the list."""
    module = ModuleType("letta_of_test")
    monkeypatch.setattr(module, "answer", original, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    known = hashlib.sha256(inspect.getsource(original).encode()).hexdigest()
    monkeypatch.setitem(replacement.SOURCES, "letta_of_test:answer", known)
    return module


def test_hook_gets_the_original_and_takes_its_place(letta: Any) -> None:
    replacement.replace("letta_of_test:answer", lambda before: lambda: f"not the {before()}")
    assert letta.answer() == "not the original"


@pytest.mark.parametrize(
    "found", [lambda: "of another release", len, None], ids=["other source text", "no source text", "no function"]
)
def test_function_of_another_release_is_refused(letta: Any, found: Callable[..., Any] | None) -> None:
    letta.answer = found
    with pytest.raises(LettaServerError, match=r"letta_of_test:answer is not that of Letta 0\.16\.8"):
        replacement.replace("letta_of_test:answer", lambda before: before)
    assert letta.answer is found


def test_missing_function_is_refused(letta: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(letta, "answer")
    with pytest.raises(LettaServerError, match="letta_of_test:answer"):
        replacement.replace("letta_of_test:answer", lambda before: before)


def test_function_is_not_replaced_twice(letta: Any) -> None:
    replacement.replace("letta_of_test:answer", lambda _: lambda: "first")
    with pytest.raises(LettaServerError):
        replacement.replace("letta_of_test:answer", lambda _: lambda: "second")
    assert letta.answer() == "first"
