"""Commands that sentences for operators name. The package knows none of its users: a service declares its program."""

from __future__ import annotations


class _Program:
    name = ""


def declare_program(name: str) -> None:
    """Say which program has the commands; a service does so once, when it is imported."""
    _Program.name = name


def command(words: str) -> str:
    """A command as an operator types it; its words alone where no service has declared a program."""
    return f"{_Program.name} {words}".strip()
