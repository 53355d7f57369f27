"""The output of ``backup`` and ``restore``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from letta_bridge.agent_snapshots import Restored
from letta_bridge.backup.records import Manifest
from letta_bridge.backup.restore import RestoreReport

_MAX_DIFFERENCES: Final = 20
"""Printed for one agent; ``--json`` has all of them."""


def backup_lines(folder: Path, made: Manifest) -> Iterator[str]:
    """A backup that was made, for people."""
    rows = sum(table.rows or 0 for table in made.tables)
    held = f"{len(made.tables)} tables with {rows} rows" if made.tables else "the session file"
    messages, passages = (sum(agent.counts.get(part, 0) for agent in made.agents) for part in ("message", "passage"))
    agents = f"{len(made.agents)} agents with {messages} messages and {passages} passages"
    yield f"{folder}: {len(made.parts)} files; {held}; {agents}"
    if left_out := [name for state in made.state for name in state.left_out]:
        yield f"left out, as they are not the bridge's: tables {', '.join(left_out)}"
    for skipped in made.skipped:
        yield f"skipped: agent {skipped.name} ({skipped.agent_id}): {skipped.reason}"
    if made.erased:
        yield f"erased during the backup: {len(made.erased)} users; a restore leaves out their data"
    yield from _unread(made.erasures_unread, "during the backup")
    if made.never_carried:
        yield f"in no backup: {'; '.join(made.never_carried)}"
    yield from _not_carried(made)
    if in_redis := [f"{what}: {count}" for what, count in made.not_saved.items() if count]:
        yield f"not saved, in Redis: {'; '.join(in_redis)}"


def restore_lines(report: RestoreReport) -> Iterator[str]:
    """A restore, for people."""
    state, outcomes, made = report.state, report.outcomes, report.manifest
    yield f"backup of {made.at:%Y-%m-%d %H:%M} UTC, release {made.release}"
    if state.done_before:
        yield "state: restored by an earlier run"
    else:
        compared = f", {state.compared} compared" if made.tables else ""
        yield f"state: {len(state.rows)} tables with {sum(state.rows.values())} rows are restored{compared}"
    if state.choices_found:
        yield (
            f"choices about permanent memory: {state.choices_found} existed already; of each user's choices the "
            "later one applies"
        )
    if state.absent:
        yield f"empty, because the backup is older than these tables: tables {', '.join(state.absent)}"
    not_restored = outcomes["occupied"] + outcomes["refused"]
    yield (
        f"agents: {outcomes['restored']} restored, {outcomes['restored_before']} restored by an earlier run, "
        f"{outcomes['there']} there already, {not_restored} not restored"
    )
    if report.erased_since:
        yield f"erased since the backup: {report.erased_since} users; their data is not restored"
    yield from _unread(report.unread, "since the backup")
    if items := [f"{count} {part}s" for part, count in sorted(report.compared.items()) if count]:
        yield f"compared with the backup: {', '.join(items)}"
    for agent in report.agents:
        yield from _agent_lines(agent)
    for lack in report.lacks:
        yield f"missing from the backup: {lack}"
    yield from _not_carried(made)


def restore_json(report: RestoreReport) -> Mapping[str, Any]:
    """A restore, for programs."""
    return {
        "backup_id": report.manifest.backup_id,
        "whole": report.whole,
        "state": {**asdict(report.state), "erased": len(report.state.erased)},
        "outcomes": report.outcomes,
        "compared": report.compared,
        "agents": [
            {
                "agent_id": agent.agent_id,
                "tags": agent.tags,
                "outcome": agent.outcome,
                "new_id": agent.new_id,
                "other": agent.other,
                "reason": agent.reason,
                "compared": agent.comparison.counts,
                "differences": agent.comparison.differences,
                "left_out": agent.left_out,
            }
            for agent in report.agents
        ],
        "erased_since": report.erased_since,
        "erasures_unread": report.unread,
        "lacks": report.lacks,
    }


def _unread(reasons: Sequence[str], when: str) -> Iterator[str]:
    for reason in reasons:
        yield f"users erased {when} may be unknown: {reason}; erase these users again after the restore"


def _agent_lines(agent: Restored) -> Iterator[str]:
    whose = ", ".join(agent.tags)
    if agent.outcome == "occupied" and agent.new_id:
        yield (
            f"restored beside another agent: {agent.agent_id} ({whose}) is now {agent.new_id}, and the user also has "
            f"{agent.other}; see letta-bridge sessions duplicates, and delete one of them"
        )
    elif agent.outcome == "occupied":
        yield (
            f"not restored: {agent.agent_id} ({whose}): the user has the agent {agent.other}; to replace it by the "
            "saved one, delete it and repeat the command"
        )
    if agent.outcome == "erased" and agent.other:
        yield (
            f"not restored: {agent.agent_id} ({whose}): the user was erased after the backup, but {agent.other} is "
            "still in Letta; run letta-bridge user erase for this user again"
        )
    if agent.outcome == "refused":
        yield f"not restored: {agent.agent_id} ({whose}): {agent.reason}"
    differences = agent.comparison.differences
    for difference in differences[:_MAX_DIFFERENCES]:
        yield f"different: {agent.new_id} ({whose}): {difference}"
    if len(differences) > _MAX_DIFFERENCES:
        yield f"different: {agent.new_id}: {len(differences) - _MAX_DIFFERENCES} more; see --json"


def _not_carried(made: Manifest) -> Iterator[str]:
    for what, count in Counter(thing for agent in made.agents for thing in agent.left_out).items():
        yield f"not in the backup, of {count} agents: {what}"
