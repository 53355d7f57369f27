"""What lies in a fault's window, and what does not."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from bridge_chaos.fault import Fault, FaultContext, Window
from bridge_chaos.load import Task
from bridge_chaos.promises import Finding

ADA, BO = Task("ada", "1"), Task("bo", "1")
FAULT = Fault("a/b", "what", lambda _context: None, window=Window("why", frozenset({"lost", "forgotten"})))


@pytest.fixture
def context() -> FaultContext:
    none: Any = SimpleNamespace()
    return FaultContext(none, none, Random(1), none)


def excused(context: Any, promise: str, subject: Any) -> Any:
    return FAULT.excuses(Finding(promise, "text", subject), context)


def test_only_covered_tasks_are_excused_and_only_for_the_promises_of_the_window(context: FaultContext) -> None:
    context.cover([ADA], "lost")
    assert excused(context, "lost", ADA)
    assert not excused(context, "lost", BO)
    assert not excused(context, "forgotten", ADA)
    context.cover([ADA])
    assert excused(context, "forgotten", ADA)
    assert not excused(context, "strangers", ADA)


def test_a_covered_task_does_not_cover_its_users_other_tasks(context: FaultContext) -> None:
    context.cover([ADA])
    assert excused(context, "lost", "ada")  # a finding about the user's order
    assert not excused(context, "lost", Task("ada", "2"))


def test_a_covered_user_is_excused_with_later_tasks(context: FaultContext) -> None:
    context.covered_users.add("ada")
    assert excused(context, "lost", Task("ada", "99"))
    assert excused(context, "lost", "ada")
    assert not excused(context, "lost", BO)
    assert not excused(context, "strangers", Task("ada", "99"))
