"""Where log lines go, and in which format; nothing of Letta's own arrangements is left."""

from __future__ import annotations

import contextlib
import io
import logging
import logging.config
import os
import sys
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Final, TextIO

from letta_server.logs.records import RecordHandler
from shared_utils.config.settings import LogSettings
from shared_utils.observability import logs

_SERVICE: Final = "letta-server"
_LONGEST_LINE: Final = 2**20
"""Bytes; one with a traceback may have tens of thousands."""
_LETTA: Final = "Letta"
"""The name of the logger that all of Letta's loggers are below."""


def configure(settings: LogSettings, *, secrets: Collection[str]) -> None:
    """Send every line of Letta and its libraries to standard output, and what is printed there nowhere.

    Until :func:`withhold_texts`, texts are written as they are: a start that fails says why.

    Args:
        settings: level, format, and whether message texts are shown.
        secrets: values to hide wherever they turn up.
    """
    # A file of its own, because structlog's loggers for sys.stdout follow what is in its place.
    stream = lines_to(os.dup(sys.stdout.fileno()))
    logs.configure(settings, _SERVICE, secrets=secrets, stream=stream)
    logging.basicConfig(handlers=[RecordHandler()], force=True)
    # Letta's own lines below warning are for whoever develops it. A record below the threshold must not reach the
    # handler, which writes the traceback of an exception only once.
    logging.getLogger(_LETTA).setLevel(logging.DEBUG if settings.level == "debug" else logging.getLogger().level)
    # Letta prints its version and its default user, and tool code that failed.
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # until the process ends


def lines_to(descriptor: int) -> TextIO:
    """A file that writes each line whole, in one call of the system: several processes write to the same output."""
    return io.TextIOWrapper(os.fdopen(descriptor, "wb", buffering=_LONGEST_LINE), encoding="utf-8", line_buffering=True)


def withhold_texts(settings: LogSettings) -> None:
    """From now on requests come: log no text that may quote one, unless the settings say so."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RecordHandler):
            handler.quoting = settings.message_text
    # Letta reads its own deprecated fields hundreds of times a turn; libraries have switched these warnings on.
    warnings.simplefilter("ignore", DeprecationWarning)


def import_without_handlers() -> None:
    """Import Letta's logging without its handlers: a console of its own format, and a file in its directory."""
    original = logging.config.dictConfig
    logging.config.dictConfig = lambda config: None  # noqa: ARG005  # the name is part of its type
    try:
        import letta.log  # noqa: F401, PLC0415 - not in the workspace's environment
    finally:
        logging.config.dictConfig = original
    folder = Path(os.environ.get("LETTA_DIR") or Path.home() / ".letta") / "logs"
    file = folder / "Letta.log"
    # Letta makes the file before it configures anything; one with content is an earlier release's.
    if file.is_file() and not file.stat().st_size:
        file.unlink()
        with contextlib.suppress(OSError):  # not empty, or a volume of its own
            folder.rmdir()


def adopt_loggers() -> None:
    """Send the lines of libraries that brought handlers of their own (fastmcp) where all others go."""
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and any(type(one) is not logging.NullHandler for one in logger.handlers):
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
