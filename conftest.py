"""Loaded before any test module: pytest would else take the folder ``shared_utils/`` for the package of that name."""

from __future__ import annotations

import functools
import gc
import importlib

import pytest
import structlog
import typer.testing
from hypothesis import HealthCheck, settings

importlib.import_module("shared_utils")

_LONGEST_ID = 500

# Collection makes a million objects that stay, and tests little garbage in cycles: looking often finds nothing.
gc.set_threshold(50_000, 20, 20)

pytest_plugins = ["local_stack.databases"]

# How long an example takes tells of the machine's load, not of the code.
settings.register_profile("full", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For half a minute of unit tests; the whole run tries the default number of examples.
settings.register_profile("unit", settings.get_profile("full"), max_examples=15)
settings.load_profile("full")

# Typer builds a program's whole tree of commands anew for every call, which takes longer than most commands run.
typer.testing._get_command = functools.cache(typer.testing._get_command)  # type: ignore[attr-defined]  # noqa: SLF001  # not public

# Outside a service, structlog has Rich draw every traceback, which costs more than the tests that log one.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a long text by its length. pytest puts a test's name into the environment, where the kernel limits it."""
    if isinstance(val, str | bytes) and len(val) > _LONGEST_ID:
        return f"{argname} of {len(val)}"
    return None


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
