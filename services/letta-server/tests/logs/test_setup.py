"""Where the lines of libraries go."""

from __future__ import annotations

import io
import logging
import uuid

import pytest

from letta_server import logs


def test_a_library_with_a_handler_of_its_own_logs_as_all_others_do(caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger(f"library-{uuid.uuid4().hex}")
    elsewhere = io.StringIO()
    library.addHandler(logging.StreamHandler(elsewhere))
    library.propagate = False
    library.setLevel(logging.INFO)
    logs.adopt_loggers()
    library.warning("a warning")
    library.info("an internal of it")
    assert (elsewhere.getvalue(), [record.getMessage() for record in caplog.records]) == ("", ["a warning"])
