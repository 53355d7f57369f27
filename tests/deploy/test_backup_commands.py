"""The backup commands of docs/operations.md fit the containers: no root, which is powerless there, and a password."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def commands(checkout: Path) -> list[list[str]]:
    """Every docker command of the page, as words."""
    page = (checkout / "docs/operations.md").read_text("utf-8")
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [shlex.split(line) for line in lines if line.strip().startswith("docker")]
    assert len(found) >= 4
    return found


def test_no_command_runs_as_root_which_has_no_capabilities_there(commands: list[list[str]]) -> None:
    assert not any("--user" in words or "-u" in words for words in commands)


def test_every_command_names_a_service_and_a_subcommand_that_exist(
    commands: list[list[str]], compose: Callable[..., Any]
) -> None:
    services = compose("docker-compose.yml")["services"]
    run = [words for words in commands if words[2] in {"exec", "run"}]
    for words in run:
        assert words[:2] == ["docker", "compose"]
        assert set(words) & services.keys()
    bridge = [words[words.index("letta-bridge") + 1] for words in run if "letta-bridge" in words]
    assert sorted(bridge) == ["backup", "restore"]


def test_backup_folder_is_prepared_for_the_containers_user(commands: list[list[str]], checkout: Path) -> None:
    mounts = [words[words.index("--volume") + 1] for words in commands if "--volume" in words]
    folders = {mount.partition(":")[0].removeprefix("$PWD/") for mount in mounts}
    assert folders == {"data/backups"}
    [made] = re.findall(r"^folders='(.*)'$", (checkout / "deploy/prepare").read_text("utf-8"), re.MULTILINE)
    assert folders <= set(made.split()), "made, and given to the containers' user"


@pytest.mark.parametrize("program", ["pg_dump", "pg_restore"])
def test_the_database_programs_are_given_the_password(
    commands: list[list[str]], compose: Callable[..., Any], tmp_path: Path, program: str
) -> None:
    """The server asks for it on its socket, too; the words after `sh -c` are run with a program that shows it."""
    [text] = [word for words in commands for word in words if f"exec {program} " in word]
    [words] = [words for words in commands if text in words]
    assert words[words.index(text) - 2 : words.index(text)] == ["sh", "-c"]
    assert "-T" in words, "a terminal would change what is dumped"
    assert "database_password" in compose("docker-compose.yml")["services"]["postgres"]["secrets"]
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "database_password").write_text("Db-secret\n", encoding="utf-8")
    (tmp_path / program).write_text('#!/bin/sh\nprintf "%s|%s" "$PGPASSWORD" "$*"\n', encoding="utf-8")
    (tmp_path / program).chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", text.replace("/run/secrets", str(secrets))],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    password, _, arguments = done.stdout.partition("|")
    assert password == "Db-secret"
    assert "-U letta" in arguments
