"""A manifest that was changed is refused in one sentence, before anything is written, or restores what it says."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from letta_bridge.backup import manifest
from letta_bridge.backup.backup import make_backup
from letta_bridge.backup.errors import BackupDamaged
from letta_bridge.backup.restore import restore_backup
from letta_bridge.letta import AgentSpec, Block, TurnMessage
from letta_bridge.settings import BridgeSettings
from letta_bridge.testing.agent_store import InMemoryAgentStore
from letta_bridge.testing.letta import InMemoryLetta
from shared_utils.errors import ServiceError
from shared_utils.persistence.sessions.file_store import FileSessionStore

_VALUES: tuple[Any, ...] = (
    None,
    "",
    "x\ny",
    "../x",
    "a\0b",
    "x" * 5000,
    0,
    -1,
    2**70,
    [],
    {},
    "0001-01-01T00:00:00+14:00",
    "2026-11-20T12:00",
)


def settings_of(folder: Path) -> BridgeSettings:
    return BridgeSettings.model_validate({"storage": {"data_dir": str(folder)}})


@pytest.fixture
async def backup(tmp_path: Path) -> Path:
    """The directory of a backup with a session file, an audit and one agent."""
    letta, settings = InMemoryLetta(), settings_of(tmp_path / "data")
    spec = AgentSpec(
        "x", ("bridge", "user:ada", "persona:default"), "m", None, "letta_v1_agent", (Block("human", "x"),), ()
    )
    agent = await letta.create_agent(spec)
    await letta.send(agent.agent_id, [TurnMessage("user", "hello", "otid")], timeout=5)
    sessions = FileSessionStore(settings.session_file)
    await sessions.reserve("ada", "default")
    await sessions.close()
    await make_backup(settings, InMemoryAgentStore(letta), tmp_path / "backup", configuration={})
    return tmp_path / "backup"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a JSON document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(good: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The document with one of its values removed, doubled or replaced: (what was done, document)."""
    for *above, last in places(good):
        for value in ("removed", "doubled", *_VALUES):
            document = copy.deepcopy(good)
            holder: Any = document
            for key in above:
                holder = holder[key]
            if value == "removed":
                del holder[last]
            elif value == "doubled" and isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            else:
                holder[last] = value
            yield (*above, last, value), document


def altered(document: dict[str, Any]) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Whether a document names other files, or other owners of them, than the backup has."""
    return (
        [(state["name"], state.get("tables", [])) for state in document["state"]],
        [(agent["agent_id"], agent["path"]) for agent in document["agents"]],
        sorted((part["path"], part["size"], part["sha256"]) for part in document["parts"]),
    )


async def test_restore_answers_any_tampered_manifest_with_a_result_or_one_sentence(
    backup: Path, tmp_path: Path
) -> None:
    good = json.loads((backup / manifest.MANIFEST_FILE).read_text("utf-8"))
    restored = 0
    for number, (what, document) in enumerate(changed(good)):
        (backup / manifest.MANIFEST_FILE).write_text(json.dumps(document), "utf-8")
        target, letta = settings_of(tmp_path / f"target-{number}"), InMemoryLetta()
        refusal = None
        try:
            await restore_backup(target, InMemoryAgentStore(letta), backup)
        except ServiceError as error:
            refusal = str(error)
        if refusal is not None:
            assert "\n" not in refusal, what
            assert letta.agents == {}, what
            assert not await asyncio.to_thread(target.session_file.exists), what
        else:
            restored += 1
            assert altered(document) == altered(good), what
    assert restored > 10


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 2}', "\udcff", "[" * 100_000])
def test_read_refuses_an_invalid_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / manifest.MANIFEST_FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BackupDamaged):
        manifest.read(tmp_path)


def test_read_refuses_a_folder_in_place_of_the_manifest(tmp_path: Path) -> None:
    (tmp_path / manifest.MANIFEST_FILE).mkdir()
    with pytest.raises(BackupDamaged, match="cannot be read"):
        manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state["tables"].pop(), "lists the file 'database/erasures.copy', but no content"),
        (lambda state: state["tables"][0].update(path="database/other.copy"), "as the file of the table"),
        (lambda state: state["tables"].append(state["tables"][0]), "more than once"),
        (lambda state: state.update(tables=[]), "names no tables"),
        (lambda state: state.update(name="vectors"), "neither a database nor a session file"),
        (lambda state: state.update(method="file"), "saved by the method file"),
    ],
)
def test_read_refuses_tables_that_are_not_the_listed_files(tmp_path: Path, change: Any, sentence: str) -> None:
    (tmp_path / "database").mkdir()
    names = ("agent_sessions", "erasures")
    for name in names:
        (tmp_path / "database" / f"{name}.copy").write_bytes(b"a\n")
    tables = [{"name": name, "path": f"database/{name}.copy", "rows": 0, "digest": "0"} for name in names]
    moment = "2026-11-20T12:00:00Z"
    document: dict[str, Any] = {
        "format": 2,
        "backup_id": "b",
        "release": "0",
        "created_at": moment,
        "finished_at": moment,
        "state": [{"name": "database", "method": "copy", "at": moment, "tables": tables}],
        "agents": [],
        "parts": [part.model_dump() for part in manifest.parts_of(tmp_path)],
    }
    (tmp_path / manifest.MANIFEST_FILE).write_text(json.dumps(document))
    assert len(manifest.read(tmp_path).tables) == 2
    change(document["state"][0])
    (tmp_path / manifest.MANIFEST_FILE).write_text(json.dumps(document))
    with pytest.raises(BackupDamaged, match=sentence):
        manifest.read(tmp_path)
