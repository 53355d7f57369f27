"""Restores snapshots into a Letta server. Restoring one agent is idempotent: after a crash, call it again.

A restored agent gets a new id. Until it is complete it carries none of the tags by which bridges look for agents, so no
turn can reach a half-written agent; an erasure finds it by tags of its own (``agent_spec.restoring_tags``). Its own
tags are set last, together with one that names its former id and one that names the backup. An incomplete agent that a
killed process left behind is found by these tags, deleted, and written again.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from letta_bridge import fail_points
from letta_bridge.agent_snapshots import old_files
from letta_bridge.agent_snapshots.agent_file import write_agent_file
from letta_bridge.agent_snapshots.capture import Progress, capture
from letta_bridge.agent_snapshots.comparison import Comparison, compare
from letta_bridge.agent_snapshots.errors import SnapshotDamaged
from letta_bridge.agent_snapshots.records import Line, lines, snapshot_name
from letta_bridge.agent_snapshots.tag_lease import TagLease
from letta_bridge.agents.agent_spec import RESTORING_TAG, identity_tags, restoring_tags, users_in
from letta_bridge.errors import AgentGone, LettaError, LettaRejected
from letta_bridge.letta.agent_store import AgentStore, StoredConversation, StoredPassage
from letta_bridge.letta.port import AgentRef, former_tag, restore_tag
from letta_bridge.request_queue.creation_leases import CreationLeases
from shared_utils.persistence.errors import Conflict

_PASSAGES_PER_CALL: Final = 50

Outcome = Literal["restored", "restored_before", "there", "occupied", "refused", "erased"]
"""``there``: an agent with the saved id exists. ``occupied``: the user has another agent, and the saved one was not
restored; or it was, in the same moment (``new_id``). ``refused``: Letta rejects the saved agent. ``erased``: its user
was erased since the backup."""

Erased = Callable[[str], Awaitable[bool]]
"""Whether the user with this id was erased since the backup."""


async def nobody_erased(_user_id: str) -> bool:
    """For a restore during which no erasure can run."""
    return False


@dataclass(frozen=True, slots=True)
class Restored:
    """The outcome for one agent."""

    agent_id: str
    """Its id in the backup."""
    tags: tuple[str, ...]
    outcome: Outcome
    new_id: str | None = None
    comparison: Comparison = field(default_factory=Comparison)
    left_out: tuple[str, ...] = ()
    """What the snapshot does not hold, for people."""
    other: str | None = None
    """The agent that occupies its place; of an erased user, the agent that exists nevertheless."""
    reason: str = ""
    """Why Letta rejects it."""

    @property
    def complete(self) -> bool:
        """Whether the saved agent exists now, as it was saved; or does not, as its user was erased since."""
        if self.outcome == "erased":
            return self.other is None
        return self.outcome not in {"occupied", "refused"} and not self.comparison.differences


@dataclass(slots=True)
class _Outline:
    """A snapshot without its messages and passages."""

    tags: tuple[str, ...] = ()
    head: Line = field(default_factory=dict)
    blocks: list[Line] = field(default_factory=list)
    conversations: list[Line] = field(default_factory=list)
    archives: list[Line] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def compiled(self) -> set[str]:
        """Ids of the system prompts of side conversations, which Letta compiles anew."""
        return {line["context"][0] for line in self.conversations if line["context"]}


class AgentRestorer:
    """Restores the agents of one backup.

    Args:
        store: the server to restore into.
        tag: every agent of this tenant carries it; a snapshot without it is refused.
        backup_id: identifies the backup, so that a repeated restore recognises its own agents.
        folder: holds the snapshots, named by ``snapshot_name``.
        workspace: an existing folder for temporary files, readable by its owner only.
        erased: asked before an agent gets its user's tags; an erasure that comes later finds the agent by its tags.
        progress: called with a label and the running total of items of the current agent.
        leases: keep bridges from creating the user's agent while the restored one gets its tags.
    """

    def __init__(
        self,
        store: AgentStore,
        tag: str,
        backup_id: str,
        folder: Path,
        workspace: Path,
        *,
        erased: Erased = nobody_erased,
        progress: Progress = lambda _what, _count: None,
        leases: CreationLeases | None = None,
    ) -> None:
        self._tag_lease = TagLease(leases)
        self._store = store
        self.tag = tag
        """Every agent of the tenant carries it."""
        self._backup = restore_tag(backup_id)
        self._differs = restore_tag(f"{backup_id}:differs")
        self._folder = folder
        self._workspace = workspace
        self._erased = erased
        self._progress = progress

    async def leave_out(self, agent_id: str, tags: tuple[str, ...]) -> Restored:
        """Do not restore an agent whose user was erased since; remove what a killed restore left of it.

        Raises:
            LettaError: Letta is unavailable; call this again later.
        """
        former = former_tag(agent_id)
        await self._remove_incomplete(former)
        there = [agent.agent_id for agent in await self._store.find([former, self._backup])]
        if not there and await self._exists(agent_id):
            there = [agent_id]
        return Restored(agent_id, tags, "erased", other=there[-1] if there else None)

    async def restore(self, agent_id: str, path: Path) -> Restored:
        """Restore one agent, unless it exists, was restored before, or its user has another one.

        An agent that an earlier run restored with differences is compared again.

        Args:
            agent_id: its id in the backup.
            path: its snapshot, or an agent file of an earlier release.

        Raises:
            SnapshotDamaged: see :meth:`check`.
            Conflict: the agent vanished meanwhile, because another restore of this backup is running.
            LettaError: Letta is unavailable; call this again later.
        """
        outline = _checked(path, self.tag)
        former = former_tag(agent_id)
        result = Restored(agent_id, outline.tags, "restored", left_out=outline.left_out)
        await self._remove_incomplete(former)
        if done := await self._store.find([former, self._backup]):
            before = done[-1]
            comparison = await self._compared(path, before.agent_id) if self._differs in before.tags else Comparison()
            result = replace(result, outcome="restored_before", new_id=before.agent_id, comparison=comparison)
            twin = await self._occupant(outline.tags) or await self._restored_elsewhere(former, before.agent_id)
            return result if twin is None else replace(result, outcome="occupied", other=twin.agent_id)
        if await self._exists(agent_id):
            return replace(result, outcome="there", new_id=agent_id)
        if other := await self._occupant(outline.tags):
            return replace(result, outcome="occupied", other=other.agent_id)
        return await self._made(path, outline, former, result)

    async def _made(self, path: Path, outline: _Outline, former: str, result: Restored) -> Restored:
        """Write the agent, unless its user is erased meanwhile."""
        try:
            new_id = await self._written(path, outline, former)
            comparison = await self._compared(path, new_id)
            return await self._tagged(replace(result, comparison=comparison), new_id, former)
        except (AgentGone, LettaRejected) as error:
            is_erased = await self._is_erased(outline.tags)  # the erasure has deleted the agent that was being written
            # A deleted agent leaves nothing; an agent that exists now is being written by another restore.
            if is_erased or isinstance(error, LettaRejected):
                with contextlib.suppress(LettaError):
                    await self._remove_incomplete(former)
            if is_erased:
                return replace(result, outcome="erased")
            if isinstance(error, AgentGone):
                raise Conflict(
                    f"the agent {result.agent_id} was deleted while it was being restored, perhaps by another restore "
                    "of this backup; wait until that one has ended, then repeat this one"
                ) from error
            return replace(result, outcome="refused", reason=str(error))

    async def _tagged(self, result: Restored, new_id: str, former: str) -> Restored:
        """Give a complete agent its tags, unless its user was erased or got another agent while it was written."""
        marks = (former, self._backup, *([self._differs] if result.comparison.differences else []))
        async with self._tag_lease.held(result.tags):
            if await self._is_erased(result.tags):
                await self._remove_incomplete(former)
                return replace(result, outcome="erased", comparison=Comparison())
            if twin := await self._restored_elsewhere(former, new_id):
                await self._store.delete(new_id)
                return replace(result, outcome="restored_before", new_id=twin.agent_id, comparison=Comparison())
            if other := await self._occupant(result.tags):
                await self._remove_incomplete(former)
                return Restored(
                    result.agent_id, result.tags, "occupied", left_out=result.left_out, other=other.agent_id
                )
            await self._store.retag(new_id, (*_without_restores(result.tags), *marks))
            twin = await self._occupant(result.tags) or await self._restored_elsewhere(former, new_id)
        fail_points.reach("agent_restored")
        if twin is not None:
            return replace(result, outcome="occupied", new_id=new_id, other=twin.agent_id)
        return replace(result, new_id=new_id)

    async def _restored_elsewhere(self, former: str, new_id: str) -> AgentRef | None:
        """The same saved agent, whole, from a restore of this backup on another host."""
        found = await self._store.find([former, self._backup])
        return next((agent for agent in found if agent.agent_id != new_id and RESTORING_TAG not in agent.tags), None)

    async def _is_erased(self, tags: tuple[str, ...]) -> bool:
        return any([await self._erased(user_id) for user_id in users_in(tags)])

    async def _remove_incomplete(self, former: str) -> None:
        for incomplete in await self._store.find([RESTORING_TAG, former]):
            await self._store.delete(incomplete.agent_id)

    async def _exists(self, agent_id: str) -> bool:
        try:
            await self._store.get(agent_id)
        except AgentGone:
            return False
        return True

    async def _occupant(self, tags: tuple[str, ...]) -> AgentRef | None:
        """An agent that a bridge would find in place of the saved one. Agents of the same backup may be twins."""
        found = await self._store.find(identity_tags(tags))
        return next((agent for agent in found if self._backup not in agent.tags), None)

    async def _written(self, path: Path, outline: _Outline, former: str) -> str:
        with tempfile.TemporaryDirectory(dir=self._workspace) as scratch:
            if path.suffix == old_files.ENDING:
                return await self._write_old_file(path, outline, former, Path(scratch))
            return await self._write_agent(path, outline, former, Path(scratch))

    async def _compared(self, path: Path, new_id: str) -> Comparison:
        """The differences of an agent from its snapshot. A file of an earlier release cannot be compared."""
        if path.suffix == old_files.ENDING:
            return Comparison()
        with tempfile.TemporaryDirectory(dir=self._workspace) as scratch:
            again = Path(scratch) / "again.jsonl"
            await capture(self._store, new_id, again)
            return compare(path, again)

    async def _write_old_file(self, path: Path, outline: _Outline, former: str, scratch: Path) -> str:
        file = scratch / "agent.af"
        old_files.retagged(path, file, (*restoring_tags(outline.tags), former, self._backup))
        new_id = await self._store.write(file, {})
        fail_points.reach("agent_written")
        if (await self._store.describe(new_id)).context:
            await self._store.recompile(new_id)
        return new_id

    async def _write_agent(self, path: Path, outline: _Outline, former: str, scratch: Path) -> str:
        blocks = {line["id"]: await self._block_elsewhere(line) for line in outline.blocks if line["shared"]}
        elsewhere = {old: new for old, new in blocks.items() if new is not None}
        file = scratch / "agent.af"
        write_agent_file(
            path,
            file,
            tags=(*restoring_tags(outline.tags), former, self._backup),
            without_blocks=elsewhere,
            without_messages=outline.compiled,
        )
        new_id = await self._store.write(file, outline.variables)
        file.unlink()
        fail_points.reach("agent_written")
        for block_id in elsewhere.values():
            await self._store.attach_block(new_id, block_id)
        await self._write_archives(path, outline, new_id)
        await self._write_conversations(path, outline, new_id)
        if outline.head["context"]:
            await self._store.recompile(new_id)
        fail_points.reach("agent_complete")
        return new_id

    async def _block_elsewhere(self, line: Line) -> str | None:
        """The id of a shared block that another agent already has; None where this agent creates it."""
        for agent in await self._holders(line):
            for block in (await self._store.describe(agent)).blocks:
                if block.block_id == line["id"] or block.content.get("label") == line["content"].get("label"):
                    return block.block_id
        return None

    async def _holders(self, line: Line) -> list[str]:
        """Ids, as they are now, of the agent in whose snapshot a shared block or archive was saved first."""
        if "kept_in" not in line:
            return []
        restored = await self._store.find([former_tag(line["kept_in"]), self._backup])
        saved = [line["kept_in"]] if await self._exists(line["kept_in"]) else []
        return [agent.agent_id for agent in restored] or saved

    async def _write_archives(self, path: Path, outline: _Outline, new_id: str) -> None:
        for line in outline.archives:
            archive = await self._archive_elsewhere(line)
            if archive is not None:
                await self._store.attach_archive(new_id, archive)
            else:
                archive = await self._store.make_archive(line["settings"])
                await self._store.attach_archive(new_id, archive)
                source = self._folder / snapshot_name(line["kept_in"]) if "kept_in" in line else path
                await self._write_passages(source, line["id"], archive)
            fail_points.reach("agent_archive")

    async def _archive_elsewhere(self, line: Line) -> str | None:
        """The id of a shared archive that another agent already has; None where this agent creates it."""
        for agent in await self._holders(line):
            for archive in await self._store.archives(agent):
                if archive.archive_id == line["id"] or archive.settings.get("name") == line["settings"].get("name"):
                    return archive.archive_id
        return None

    async def _write_passages(self, source: Path, archive_id: str, new_archive: str) -> None:
        batch: list[StoredPassage] = []
        written = 0
        for line in lines(source):
            if line["part"] == "passage" and line["archive_id"] == archive_id:
                batch.append(_passage(line))
            if len(batch) == _PASSAGES_PER_CALL or (batch and line["part"] == "end"):
                await self._store.add_passages(new_archive, batch)
                written += len(batch)
                self._progress("passages", written)
                batch = []

    async def _write_conversations(self, path: Path, outline: _Outline, new_id: str) -> None:
        """Create each side conversation by forking the agent while the agent has the conversation's context."""
        if not outline.conversations:
            return
        own = (await self._store.describe(new_id)).context
        ids = await self._message_ids(path, outline, new_id)
        for line in outline.conversations:
            context = [ids[message_id] for message_id in line["context"][1:] if message_id in ids]
            await self._store.set_context(new_id, [*own[:1], *context])
            await self._store.fork(new_id, StoredConversation("", (), line["summary"], line["settings"]))
        await self._store.set_context(new_id, own)

    async def _message_ids(self, path: Path, outline: _Outline, new_id: str) -> dict[str, str]:
        """Saved id → new id of the messages in conversations' contexts: messages were written in saved order."""
        wanted = {message_id for line in outline.conversations for message_id in line["context"]}
        saved = (str(line["id"]) for line in lines(path) if line["part"] == "message")
        written = (message_id for message_id in saved if message_id not in outline.compiled)
        found: dict[str, str] = {}
        async for message in self._store.messages(await self._store.describe(new_id)):
            before = next(written, None)
            if before is not None and before in wanted:
                found[before] = message.message_id
        return found


def check_snapshot(path: Path, tag: str) -> tuple[str, ...]:
    """Read a file to its end without restoring it; returns the agent's tags.

    Args:
        path: a snapshot, or an agent file of an earlier release.
        tag: every agent of the tenant carries it.

    Raises:
        SnapshotDamaged: it is neither a whole snapshot nor an agent file, or belongs to another installation.
    """
    return _checked(path, tag).tags


def _checked(path: Path, tag: str) -> _Outline:
    old = path.suffix == old_files.ENDING
    outline = _Outline(tags=old_files.tags_of(path)) if old else _outline(path)
    if tag not in outline.tags:
        raise SnapshotDamaged(
            f"{path} contains an agent of another tenant (it lacks the tag '{tag}'); correct tenant.name, "
            "or remove the file from the backup"
        )
    return outline


def _outline(path: Path) -> _Outline:
    outline = _Outline()
    for line in lines(path):
        match line["part"]:
            case "snapshot":
                outline.head, outline.tags = line, tuple(line["tags"])
            case "block":
                outline.blocks.append(line)
            case "conversation":
                outline.conversations.append(line)
            case "archive":
                outline.archives.append(line)
            case "variable" if "value" in line:
                outline.variables[line["name"]] = line["value"]
            case "end":
                outline.left_out = tuple(line["left_out"])
    return outline


def _without_restores(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Tags without the backup that the saved agent itself came from; its former ids stay."""
    return tuple(tag for tag in tags if not tag.startswith(restore_tag("")))


def _passage(line: Line) -> StoredPassage:
    metadata: Mapping[str, Any] = line["metadata"]
    return StoredPassage(
        line["id"], line["archive_id"], line["text"], line["created_at"], tuple(line["tags"]), metadata
    )
