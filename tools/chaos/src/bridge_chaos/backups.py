"""Backups made during the load, and the required content of a restored one."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bridge_chaos.command_line import command, insist
from bridge_chaos.empty_place import EmptyPlace
from bridge_chaos.fault import FaultContext
from bridge_chaos.letta_reader import LettaReader
from bridge_chaos.load import Utterance, recognised

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_BACKUP_ATTEMPTS: Final = 3


@dataclass(frozen=True)
class SavedBackup:
    """A backup's directory and its required content: everything that Letta had answered before the backup began."""

    folder: Path
    expected: Sequence[Utterance]


def saved_backup(context: FaultContext) -> SavedBackup:
    """Make a backup in a new directory; repeat it in another directory if the first attempt was interrupted."""
    before = _answered_by_letta(context)
    for _ in range(_BACKUP_ATTEMPTS):
        folder = context.environment.folder / f"backup-{context.environment.workspace.number()}"
        saved = command(context, "backup", str(folder))
        if saved.succeeded:
            break
        context.remarks.append(f"tried again: {saved}")
    context.check("forgotten", saved.succeeded, str(saved))
    readable = [file.name for file in folder.rglob("*") if file.is_file() and file.stat().st_mode & _OTHERS]
    context.check("strangers", not readable, f"others may read {len(readable)} files of the backup: {readable[:3]}")
    return SavedBackup(folder, before)


def restore_and_compare(context: FaultContext, backup: SavedBackup, place: EmptyPlace) -> None:
    """Check that the restored agents contain everything that the backup must contain, once."""
    restored = insist(context, "restore", str(backup.folder), variables=place.variables)
    context.check("forgotten", restored.succeeded, str(restored))
    with place.reader() as reader:
        for user in context.conversation.users:
            found = _said(reader, user)
            for utterance in (said for said in backup.expected if said.user == user):
                times = found.count(utterance)
                text = f"{utterance.text!r} is {times} times in the restored agents"
                context.check("repeated_messages" if times > 1 else "forgotten", times == 1, text, utterance.task)


def _answered_by_letta(context: FaultContext) -> list[Utterance]:
    talk = context.conversation
    with talk.observer.changed:
        return [
            utterance
            for task, utterance in talk.utterances.items()
            if talk.observer.last(task).get("source") == "letta"
        ]


def _said(reader: LettaReader, user: str) -> list[Utterance]:
    messages = [message for agent in reader.agents([f"user:{user}"]) for message in reader.messages(str(agent["id"]))]
    return [
        utterance
        for message in messages
        if message.get("message_type") == "user_message"
        for utterance in recognised(message.get("content"))
    ]
