"""Letta's log in this project's format: one event a line, with ids, without message texts.

::

    setup         where lines go; keeps Letta from logging on its own
    records       what becomes of a log record of Letta's or of a library's
    templates     the text of a record as its source has it, without the values in it
    tracebacks    a traceback without the messages of its exceptions
"""

from __future__ import annotations

from letta_server.logs.setup import adopt_loggers, configure, import_without_handlers, withhold_texts

__all__ = ["adopt_loggers", "configure", "import_without_handlers", "withhold_texts"]
