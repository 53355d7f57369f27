from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from letta_server.logs.templates import template

logger = logging.getLogger("tests.templates")
SECRET = "what a user said"


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    handler = Records()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield handler.seen
    logger.removeHandler(handler)
    logger.propagate = True


def f_string(said: Any) -> None:
    logger.warning(f"tool {said!r} failed: {str(said)}")  # noqa: G004, RUF010


def several_lines(said: Any) -> None:
    logger.error(
        f"first {said} "  # noqa: G004
        "second",
        extra={"given": said},
    )


def joined(said: Any) -> None:
    logger.info("a: " + said)  # noqa: G003


def lazy(said: Any) -> None:
    logger.debug("it was %s", said)


def with_level(said: Any) -> None:
    logger.log(logging.WARNING, f"at a level: {said}")  # noqa: G004


def bare(said: Any) -> None:
    logger.error(said)


def nested(said: Any) -> None:
    logger.warning(f"outer {said}", extra={"inner": logger.info(f"inner {said}")})  # type: ignore[func-returns-value]  # noqa: G004


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (f_string, "tool {said} failed: {str(said)}"),
        (several_lines, "first {said} second"),
        (joined, "a: {said}"),
        (lazy, "it was %s"),
        (with_level, "at a level: {said}"),
        (bare, "{said}"),
    ],
)
def test_template_has_expressions_in_place_of_values(
    records: list[logging.LogRecord], call: Callable[[str], None], text: str
) -> None:
    call(SECRET)
    assert [template(record) for record in records] == [text]


def test_a_call_inside_another_never_shows_a_value(records: list[logging.LogRecord]) -> None:
    nested(SECRET)
    assert not any(SECRET in template(record) for record in records)


@pytest.mark.parametrize(
    ("message", "arguments", "text"),
    [
        (f"said {SECRET}", (), f"<{len(SECRET) + 5} characters>"),
        ("said %s", (SECRET,), "said %s"),
        (ValueError(SECRET), (), "<ValueError>"),
    ],
)
def test_without_source_only_the_length_of_a_text_is_known(message: Any, arguments: Any, text: str) -> None:
    record = logging.LogRecord("x", logging.ERROR, "/nowhere.py", 1, message, arguments, None)
    assert template(record) == text
