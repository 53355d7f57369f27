"""Compares the snapshot of an agent with a snapshot of the agent restored from it, item by item.

Values that Letta generates are not compared: ids, the compiled system prompts (the first message of every context), and
otids of messages that had none.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from letta_bridge.agent_snapshots.agent_file import WRITTEN_SETTINGS
from letta_bridge.agent_snapshots.records import Line, lines

_BLOCK_FIELDS: Final = ("label", "value", "limit", "description", "read_only", "metadata", "hidden")
_TOOL_FIELDS: Final = ("name", "tool_type", "source_code", "json_schema", "pip_requirements", "npm_requirements")


@dataclass(slots=True)
class Comparison:
    """The result of a comparison."""

    counts: Counter[str] = field(default_factory=Counter)
    """Part (``message``, ``block`` ...) → number of items compared."""
    differences: list[str] = field(default_factory=list)
    """One sentence each, for people: the item and the fields that differ, never the text of a message."""


def compare(original: Path, restored: Path) -> Comparison:
    """Compare two snapshots, streaming both: only a digest of each passage is kept in memory.

    Args:
        original: the snapshot that was restored.
        restored: a snapshot of the restored agent.

    Raises:
        SnapshotDamaged: one of the files is damaged or incomplete.
    """
    ours, theirs = _Read(original), _Read(restored)
    done = Comparison()
    messages = enumerate(zip_longest(ours.messages(), theirs.messages()), 1)
    for number, (one, other) in messages:
        done.counts["message"] += one is not None
        if how := _difference(one, other):
            done.differences.append(f"message {number} {how}")
    _compare_contexts(ours, theirs, done)
    _compare_named(ours, theirs, done)
    _compare_passages(ours, theirs, done)
    return done


class _Read:
    """A snapshot being read: small parts are kept, messages are streamed, passages are reduced to digests."""

    def __init__(self, path: Path) -> None:
        self._lines = lines(path)
        self.head: Line = {}
        self.settings: Mapping[str, Any] = {}
        self.tools: dict[str, Any] = {}
        self.blocks: dict[str, Line] = {}
        self.variables: set[str] = set()
        self.conversations: list[Line] = []
        self.archives: list[Line] = []
        self.passages: Counter[bytes] = Counter()
        self.places: dict[str, int] = {}
        """Id of a message in some context → its position among the compared messages."""
        self._before: Line | None = None
        for line in self._lines:
            if line["part"] in {"message", "passage", "end"}:
                self._before = line
                break
            self._keep(line)
        self._contexts = [list(self.head["context"]), *(list(one["context"]) for one in self.conversations)]
        self._compiled = {context[0] for context in self._contexts if context}
        self._in_context = {message_id for context in self._contexts for message_id in context}

    def messages(self) -> Iterator[Line]:
        """The messages to compare. Exhaust this iterator before using ``contexts`` or ``passages``."""
        number = 0
        for line in self._rest():
            if line["part"] == "message" and line["id"] not in self._compiled:
                if line["id"] in self._in_context:
                    self.places[line["id"]] = number
                number += 1
                yield line
            elif line["part"] == "passage":
                self.passages[_digest(self._passage(line))] += 1

    def contexts(self) -> list[list[int | None]]:
        """Every context as positions of messages: the agent's own context first, then those of its conversations."""
        return [[self.places.get(message_id) for message_id in context[1:]] for context in self._contexts]

    def _rest(self) -> Iterator[Line]:
        if self._before is not None:
            yield self._before
            yield from self._lines

    def _keep(self, line: Line) -> None:
        match line["part"]:
            case "snapshot":
                self.head = line
            case "settings":
                self.settings = line["settings"]
            case "tool":
                self.tools[str(line["tool"].get("name"))] = line["tool"]
            case "block":
                self.blocks[str(line["content"].get("label"))] = line
            case "variable":
                self.variables.add(line["name"])
            case "conversation":
                self.conversations.append(line)
            case "archive":
                self.archives.append(line)

    def _passage(self, line: Line) -> Line:
        archives = [archive["id"] for archive in self.archives if "kept_in" not in archive]
        place = archives.index(line["archive_id"]) if line["archive_id"] in archives else None
        return {
            "archive": place,
            "text": line["text"],
            "created_at": _moment(line["created_at"]),
            "tags": sorted(line["tags"]),
            "metadata": line["metadata"],
        }


def _difference(one: Line | None, other: Line | None) -> str:
    if one is None:
        return "is not in the backup"
    if other is None:
        return "is missing"
    ours, theirs = _message(one["row"]), _message(other["row"])
    if "otid" not in ours:
        theirs.pop("otid", None)
    names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return f"differs in {', '.join(names)}" if names else ""


def _message(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without empty values, for which Letta uses null, an empty list or an empty text."""
    filled = {name: value for name, value in row.items() if value not in (None, [], "") and name != "type"}
    if "created_at" in filled:
        filled["created_at"] = _moment(filled["created_at"])
    return {name: _plain(value) for name, value in filled.items()}


def _plain(value: Any) -> Any:
    """The value without keys whose value is null, at any depth."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items() if inner is not None}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _moment(text: Any) -> Any:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return text
    return moment.astimezone(UTC).isoformat(timespec="microseconds") if moment.tzinfo else text


def _compare_contexts(ours: _Read, theirs: _Read, done: Comparison) -> None:
    done.counts["conversation"] += len(ours.conversations)
    if len(ours.conversations) != len(theirs.conversations):
        done.differences.append(f"{len(theirs.conversations)} conversations instead of {len(ours.conversations)}")
    for number, (one, other) in enumerate(zip(ours.contexts(), theirs.contexts(), strict=False)):
        if one != other:
            whose = f"of conversation {number}" if number else "of the agent"
            done.differences.append(f"the context {whose} differs: {len(other)} messages instead of {len(one)}")
    for number, (before, after) in enumerate(zip(ours.conversations, theirs.conversations, strict=False), 1):
        if (before["summary"] or "") != (after["summary"] or ""):
            done.differences.append(f"the summary of conversation {number} differs")


def _compare_named(ours: _Read, theirs: _Read, done: Comparison) -> None:
    """Compare blocks, tools and variables by name, then settings."""
    elsewhere = {label for label, line in ours.blocks.items() if "kept_in" in line}
    sides: tuple[tuple[str, dict[str, dict[str, Any]], dict[str, dict[str, Any]]], ...] = (
        ("block", _blocks(ours), _blocks(theirs)),
        ("tool", _chosen(ours.tools, _TOOL_FIELDS), _chosen(theirs.tools, _TOOL_FIELDS)),
        ("variable", {name: {} for name in ours.variables}, {name: {} for name in theirs.variables}),
    )
    for what, before, after in sides:
        done.counts[what] += len(before)
        for name in sorted(before.keys() | after.keys()):
            if name not in after:
                done.differences.append(f"{what} {name} is missing")
            elif name not in before:
                done.differences.append(f"{what} {name} is not in the backup")
            elif before[name] != after[name] and not (what == "block" and name in elsewhere):
                changed = sorted(key for key in before[name] if before[name][key] != after[name].get(key))
                done.differences.append(f"{what} {name} differs in {', '.join(changed)}")
    for name in WRITTEN_SETTINGS:
        if _plain(ours.settings.get(name)) != _plain(theirs.settings.get(name)):
            done.differences.append(f"the setting {name} differs")


def _chosen(things: Mapping[str, Mapping[str, Any]], names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    return {label: {name: _plain(thing.get(name)) or None for name in names} for label, thing in things.items()}


def _blocks(side: _Read) -> dict[str, dict[str, Any]]:
    return _chosen({label: line["content"] for label, line in side.blocks.items()}, _BLOCK_FIELDS)


def _compare_passages(ours: _Read, theirs: _Read, done: Comparison) -> None:
    own = [archive for archive in ours.archives if "kept_in" not in archive]
    done.counts["archive"] += len(ours.archives)
    if len(ours.archives) != len(theirs.archives):
        done.differences.append(f"{len(theirs.archives)} archives instead of {len(ours.archives)}")
    done.counts["passage"] += ours.passages.total()
    if len(own) != len(ours.archives):
        return  # passages of a shared archive are compared with the snapshot that holds them
    missing, surplus = ours.passages - theirs.passages, theirs.passages - ours.passages
    if missing:
        done.differences.append(f"{missing.total()} of {ours.passages.total()} passages are missing or differ")
    if surplus.total() > missing.total():
        done.differences.append(f"{surplus.total() - missing.total()} passages are not in the backup")


def _digest(content: Line) -> bytes:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
