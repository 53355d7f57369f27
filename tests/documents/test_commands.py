"""Every command line of the bridge that a document shows exists, with every option it is shown with.

Commands are looked up here, also those within a sentence; test_shown_commands.py runs those of the blocks, or says why
not.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from letta_bridge.main import app

ROOT = Path(__file__).parents[2]
LISTED = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
DOCUMENTS = sorted(ROOT / name for name in LISTED.split("\0") if name and not name.startswith("CHANGELOG"))
BRIDGE = typer.main.get_command(app)
COMMAND = re.compile(r"(?:\./run bridge|(?<![\w./-])(?<!exec )letta-bridge) +([a-z][^\n`|;&<>()]*)")
RUN = re.compile(r"\./run +([a-z-]+)")
USAGE = {
    line.split()[0]
    for line in (ROOT / "run").read_text(encoding="utf-8").partition("Usage: ")[2].partition("TEXT")[0].splitlines()
    if re.match(r"  [a-z]", line)
}


def code(document: Any) -> list[Any]:
    """Blocks and pieces of code, where commands stand."""
    text = document.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```(?:sh|console|bash)?\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    pieces = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [*(line for block in blocks for line in block.replace("\\\n", " ").splitlines()), *pieces]


def problem(words: Any) -> Any:
    """What is wrong with a command line without the program's name; None where nothing is."""
    command = BRIDGE
    while words and hasattr(command, "commands"):
        word = words[0]
        if not re.fullmatch(r"[a-z-]+", word):
            return None  # `dead list|show`, `sessions …`: several at once
        if word not in command.commands:
            return f"there is no command {word}"
        command, words = command.commands[word], words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    options.add("--help")
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and option != "--" and option.rstrip(".,:…") not in options:
            return f"{option} is no option"
    return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_every_command_of_the_bridge_exists(document: str) -> None:
    wrong = {}
    for line in code(document):
        for shown in COMMAND.findall(line):
            try:
                words = shlex.split(shown, comments=True)
            except ValueError:
                words = shown.split()
            if (trouble := problem(words)) is not None:
                wrong[shown] = trouble
    assert wrong == {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_every_command_of_run_exists(document: str) -> None:
    shown = {word for line in code(document) for word in RUN.findall(line)}
    assert shown <= USAGE | {"help"}
