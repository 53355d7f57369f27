"""Verifies that a manifest is consistent: its tables and agents name exactly the files in its list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from letta_bridge.agent_snapshots.records import ENDING, snapshot_name
from letta_bridge.backup.places import AGENTS, AUDIT, CONFIGURATION, DUMP, SESSIONS
from letta_bridge.backup.records import Manifest, SavedAgent, SavedState
from shared_utils.persistence.table_copy import ENDING as TABLE_ENDING


def fault_of(manifest: Manifest) -> str | None:
    """The inconsistency of a manifest, for people; None if there is none."""
    return next(_faults(manifest), None)


def _faults(manifest: Manifest) -> Iterator[str]:
    places = Counter(state.name for state in manifest.state)
    if not places.keys() & {"database", "file"}:
        yield "it lists neither a database nor a session file"
    yield from (f"it names {place} more than once" for place, times in places.items() if times > 1)
    for state in manifest.state:
        yield from _faults_of_state(state)
    for agent in manifest.agents:
        if agent.path != _path_of_agent(agent):
            yield f"it names {agent.path!r} as the file of the agent {agent.agent_id!r}"
    tables = [table.path for table in manifest.tables]
    named = Counter([*tables, *(agent.path for agent in manifest.agents), *_required(manifest)])
    parts = Counter(part.path for part in manifest.parts)
    for paths in (named, parts):
        yield from (f"it names {path!r} more than once" for path, times in paths.items() if times > 1)
    yield from (f"it names {path!r}, but does not list that file" for path in sorted(named.keys() - parts.keys()))
    unnamed = parts.keys() - named.keys() - _optional(manifest)
    yield from (f"it lists the file {path!r}, but no content of it" for path in sorted(unnamed))


def _faults_of_state(state: SavedState) -> Iterator[str]:
    if (state.name == "file") != (state.method == "file") or (state.method != "copy" and state.tables):
        yield f"it says that {state.name} was saved by the method {state.method}"
    if state.name == "database" and state.method == "copy" and not state.tables:
        yield "it names no tables of the database"
    for table in state.tables:
        if table.path != f"{state.name}/{table.name}{TABLE_ENDING}":
            yield f"it names {table.path!r} as the file of the table {table.name!r}"


def _path_of_agent(agent: SavedAgent) -> str:
    """Releases that wrote format 1 named a file by the id as it was."""
    if agent.path.endswith(ENDING):
        return f"{AGENTS}/{snapshot_name(agent.agent_id)}"
    return f"{AGENTS}/{agent.agent_id}{PurePosixPath(agent.path).suffix}"


def _required(manifest: Manifest) -> Iterator[str]:
    if any(state.method == "pg_dump" for state in manifest.state):
        yield DUMP


def _optional(manifest: Manifest) -> set[str]:
    """Files that no table or agent names. A session file exists once there is a session, an audit once there is one."""
    of_file = {SESSIONS, AUDIT} if any(state.name == "file" for state in manifest.state) else set[str]()
    return {CONFIGURATION, *of_file}
