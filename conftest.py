"""Loaded before any test module: pytest would else take the folder ``shared_utils/`` for the package of that name."""

from __future__ import annotations

import gc
import importlib

import pytest
from hypothesis import settings

importlib.import_module("shared_utils")

pytest_plugins = ["local_stack.databases"]

# For half a minute of unit tests; the whole run tries the default number of examples.
settings.register_profile("unit", max_examples=15)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported: it would look through it again and again, a tenth of all CPU."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests recorded as `report`, whichever worker they ran in."""
    for outcome in ("passed", "failed"):
        for test in terminalreporter.getreports(outcome):
            for name, text in test.user_properties:
                if name == "report" and test.when == "call":
                    terminalreporter.section(test.nodeid)
                    terminalreporter.write_line(str(text))
