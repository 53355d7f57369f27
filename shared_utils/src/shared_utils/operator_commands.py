"""Names commands in sentences for operators; a service declares its program, so that this package needs no names."""

from __future__ import annotations


class _Program:
    name = ""


def declare_program(name: str) -> None:
    """Declare the program that has the commands; a service does so once, at import."""
    _Program.name = name


def command(words: str) -> str:
    """A command as an operator types it; its words alone where no service has declared a program."""
    return f"{_Program.name} {words}".strip()
