"""Backups by the documents' commands, restored into another copy of the project on the same host."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from local_stack.containers import ContainerStack, until

if TYPE_CHECKING:
    from project_tests.containers.conftest import MakeStack

Shown = Callable[[str, str], str]
PAGE = "docs/operations.md"


@pytest.fixture(scope="module")
def other(make_stack: MakeStack, stack: ContainerStack) -> ContainerStack:
    """A second copy beside the first, which runs, with the first one's key of encryption."""
    made = make_stack("other")
    made.prepare("demo", OPENAI_API_KEY="sk-right")
    key = "secrets/letta_encryption_key.txt"
    shutil.copyfile(stack.root / key, made.root / key)
    return made


@pytest.fixture
def empty(stack: ContainerStack, other: ContainerStack) -> Iterator[ContainerStack]:
    """The second copy without data and containers; the first one, which has what Grace has said, runs."""
    stack.up()
    stack.send("I like oolong tea.", "grace")
    yield other
    other.down()
    shutil.rmtree(other.root / "data")
    other.prepare()


def _hand_over(stack: ContainerStack, other: ContainerStack, name: str) -> None:
    """Copy a backup to the other host, as its operator."""
    source, target = stack.root / "data/backups" / name, other.root / "data/backups" / name
    (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    other.prepare()  # for the owner


def test_a_backup_of_the_bridge_is_restored_into_another_copy(
    stack: ContainerStack, empty: ContainerStack, shown: Shown
) -> None:
    stack.shell(shown(PAGE, r"letta-bridge backup"))
    name = dt.datetime.now().astimezone().date().isoformat()
    saved = stack.root / "data/backups" / name
    assert saved.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in saved.rglob("*"))
    _hand_over(stack, empty, name)
    empty.up()
    empty.shell(shown(PAGE, r"compose stop letta-bridge"))
    empty.shell(shown(PAGE, r"letta-bridge restore").replace("2026-11-20", name))
    empty.shell(shown(PAGE, r"compose start letta-bridge"))
    empty.up()
    assert "oolong" in empty.send("What do I like?", "grace")
    # Side by side: each has its own containers, networks, ports and Redis.
    assert not {stack.inspect(service)["Id"] for service in stack.services()} & {
        empty.inspect(service)["Id"] for service in empty.services()
    }
    empty.send("I like chess.", "heidi")
    assert "heidi" not in stack.bridge("sessions", "list")
    shutil.rmtree(saved)


def test_a_dump_of_lettas_database_is_restored_into_another_copy(
    stack: ContainerStack, empty: ContainerStack, shown: Shown
) -> None:
    stack.shell(f"umask 077; {shown(PAGE, r'exec pg_dump')}")
    dump = stack.root / "data/backups/letta.dump"
    assert dump.stat().st_mode & 0o777 == 0o600
    assert dump.stat().st_size > 1000
    _hand_over(stack, empty, dump.name)
    empty.shell(shown(PAGE, r"--wait postgres"))
    empty.shell(shown(PAGE, r"exec pg_restore"))
    empty.up()
    # The stack whose database this was seems alive for a minute: until then, memory-python answers.
    until(lambda: "oolong" in empty.send("What do I like?", "grace"), "the agent does not answer")
    dump.unlink()
