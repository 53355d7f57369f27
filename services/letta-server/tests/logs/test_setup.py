"""Where the lines of libraries go."""

from __future__ import annotations

import io
import logging
import socket
import uuid

import pytest

from letta_server import logs
from letta_server.logs.setup import lines_to


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


def test_a_long_line_is_written_whole() -> None:
    # A socket that keeps the boundaries of writes.
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with reader, writer:
        text = "行" * 20_000
        with lines_to(writer.detach()) as file:
            print(text, file=file, flush=True)
        assert reader.recv(200_000).decode() == f"{text}\n"
