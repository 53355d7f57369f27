"""An agent taken out, written back, and compared: on the fake and on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from letta_bridge.agent_snapshots import AgentRestorer, SharedParts, SnapshotDamaged, capture
from letta_bridge.agent_snapshots.comparison import compare
from letta_bridge.agent_snapshots.records import lines, snapshot_name
from letta_bridge.agents.agent_spec import RESTORING_TAG
from letta_bridge.errors import AgentGone, LettaRejected
from letta_bridge.letta.agent_store import AgentDescription, StoredConversation
from letta_bridge.letta.exact_rows import READER_TAG
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.letta.port import SoughtTurn, TurnMessage, TurnState, former_tag

if TYPE_CHECKING:
    from letta_bridge_tests.letta.conftest import Agents

fake_only = pytest.mark.parametrize("agents", ["fake"], indirect=True)
server_only = pytest.mark.parametrize("agents", [pytest.param("server", marks=pytest.mark.letta)], indirect=True)


async def lived(agents: Agents, *, turns: int = 4) -> tuple[str, list[str]]:
    """An agent that has something of everything: history out of context, passages, a side conversation."""
    agent = await agents.made()
    otids = await agents.told(agent, "我叫小明。", *(f"第{number}句 😀\n\t\\N" for number in range(turns)))
    await agents.note(agent, *(f"第{number}条 ✨" for number in range(7)))
    described = await agents.store.describe(agent)
    await agents.store.set_context(agent, described.context[:3])
    await agents.store.fork(agent, StoredConversation("", (), "side talk"))
    await agents.store.set_context(agent, [described.context[0], *described.context[-3:]])
    return agent, otids


def restorer(agents: Agents, folder: Path, backup: str = "backup-1") -> AgentRestorer:
    return AgentRestorer(agents.store, "bridge", backup, folder, folder)


def parts(path: Path, part: str) -> list[Any]:
    return [line for line in lines(path) if line["part"] == part]


async def test_agent_is_restored_completely(agents: Agents, tmp_path: Path) -> None:
    agent, otids = await lived(agents)
    path = tmp_path / snapshot_name(agent)
    taken = await capture(agents.store, agent, path)
    assert taken.counts["passage"] == 7
    assert taken.counts["conversation"] == taken.counts["archive"] == 1
    assert taken.counts["message"] >= 2 * 5 + 1
    assert len(parts(path, "snapshot")[0]["context"]) == 4
    assert path.stat().st_mode & 0o777 == 0o600
    await agents.letta.delete_agent(agent)

    restored = await restorer(agents, tmp_path).restore(agent, path)
    assert restored.outcome == "restored"
    assert restored.comparison.differences == []
    assert restored.comparison.counts == {
        "message": taken.counts["message"] - 2,  # the two compiled system prompts are Letta's to make
        "block": 2,
        "tool": 2,
        "passage": 7,
        "archive": 1,
        "conversation": 1,
        "variable": 0,
    }
    [found] = await agents.letta.find_agents(agents.spec.tags)
    assert found.agent_id == restored.new_id != agent
    assert found.former_ids == (agent,)
    assert set(found.tags) == {*agents.spec.tags, former_tag(agent), "restored-from:backup-1"}
    # A redelivery of a turn from before the backup finds its answer under the former key.
    looked = await agents.letta.find_turns(found.agent_id, [SoughtTurn(otid, since=0) for otid in otids])
    assert all(turn.state is TurnState.STORED and turn.answer is not None for turn in looked.turns)
    await agents.told(found.agent_id, "还记得我吗？")
    assert [agent.agent_id for agent in await agents.store.find([former_tag(agent)])] == [found.agent_id]


async def test_repeated_restore_of_a_snapshot_changes_nothing(agents: Agents, tmp_path: Path) -> None:
    agent, _ = await lived(agents)
    path = tmp_path / snapshot_name(agent)
    await capture(agents.store, agent, path)
    assert (await restorer(agents, tmp_path).restore(agent, path)).outcome == "there"
    await agents.letta.delete_agent(agent)
    first = await restorer(agents, tmp_path).restore(agent, path)
    again = await restorer(agents, tmp_path).restore(agent, path)
    assert again.outcome == "restored_before"
    assert again.new_id == first.new_id
    assert len(await agents.letta.find_agents([agents.tag])) == 1


async def test_an_agent_is_not_put_beside_another_one_of_its_user(agents: Agents, tmp_path: Path) -> None:
    agent, _ = await lived(agents, turns=1)
    path = tmp_path / snapshot_name(agent)
    await capture(agents.store, agent, path)
    await agents.letta.delete_agent(agent)
    other = await agents.made()
    restored = await restorer(agents, tmp_path).restore(agent, path)
    assert (restored.outcome, restored.other) == ("occupied", other)
    assert [found.agent_id for found in await agents.letta.find_agents([agents.tag])] == [other]


async def test_twins_of_one_user_are_both_restored(agents: Agents, tmp_path: Path) -> None:
    twins = [(await lived(agents, turns=1))[0] for _ in range(2)]
    for twin in twins:
        await capture(agents.store, twin, tmp_path / snapshot_name(twin))
    for twin in twins:
        await agents.letta.delete_agent(twin)
    restoring = restorer(agents, tmp_path)
    assert [(await restoring.restore(twin, tmp_path / snapshot_name(twin))).outcome for twin in twins] == [
        "restored",
        "restored",
    ]
    assert len(await agents.letta.find_agents(agents.spec.tags)) == 2


async def test_incomplete_restored_agent_is_not_found_by_its_user(
    agents: Agents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = await lived(agents)
    path = tmp_path / snapshot_name(agent)
    await capture(agents.store, agent, path)
    await agents.letta.delete_agent(agent)
    seen = []

    async def interrupted(*_arguments: str) -> None:
        seen.extend(await agents.letta.find_agents([former_tag(agent)]))
        raise KeyboardInterrupt

    restoring = restorer(agents, tmp_path)
    monkeypatch.setattr(agents.store, "recompile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        await restoring.restore(agent, path)
    [half] = seen
    of_owner = {"restoring:bridge", f"restoring:{agents.tag}"}
    assert set(half.tags) == {RESTORING_TAG, *of_owner, former_tag(agent), "restored-from:backup-1"}
    assert await agents.letta.find_agents(agents.spec.tags) == []
    monkeypatch.undo()

    restored = await restorer(agents, tmp_path).restore(agent, path)
    assert restored.outcome == "restored"
    assert restored.comparison.differences == []
    assert [found.agent_id for found in await agents.letta.find_agents([former_tag(agent)])] == [restored.new_id]
    assert await agents.letta.find_agents([RESTORING_TAG, former_tag(agent)]) == []


async def test_shared_block_and_archive_are_saved_once_and_restored_as_shared(agents: Any, tmp_path: Path) -> None:
    one, other = await agents.made(), await agents.made(blocks=())
    await agents.note(one, "shared")
    block = (await agents.store.describe(one)).blocks[0]
    [archive] = await agents.store.archives(one)
    await agents.store.attach_block(other, block.block_id)
    await agents.store.attach_archive(other, archive.archive_id)
    shared = SharedParts()
    for agent in (one, other):
        await capture(agents.store, agent, tmp_path / snapshot_name(agent), shared=shared)
    assert len(parts(tmp_path / snapshot_name(one), "passage")) == 1
    assert len(parts(tmp_path / snapshot_name(other), "passage")) == 0
    for agent in (one, other):
        await agents.letta.delete_agent(agent)
    restored = []
    for agent in (one, other):  # a run each: the second one knows nothing of the first
        restoring = restorer(agents, tmp_path)
        restored.append(await restoring.restore(agent, tmp_path / snapshot_name(agent)))
    assert [agent.comparison.differences for agent in restored] == [[], []]
    first, second = [await agents.store.describe(agent.new_id) for agent in restored]
    [attached] = second.blocks
    assert attached.shared
    assert attached.block_id in {block.block_id for block in first.blocks}
    archives = [await agents.store.archives(agent.new_id) for agent in restored]
    assert archives[0] == archives[1]


async def test_shared_archive_is_restored_without_its_first_owner(agents: Any, tmp_path: Path) -> None:
    one, other = await agents.made(), await agents.made(blocks=(), tags=("bridge", agents.tag, "persona:cat"))
    await agents.note(one, "shared")
    [archive] = await agents.store.archives(one)
    await agents.store.attach_archive(other, archive.archive_id)
    shared = SharedParts()
    for agent in (one, other):
        await capture(agents.store, agent, tmp_path / snapshot_name(agent), shared=shared)
    for agent in (one, other):
        await agents.letta.delete_agent(agent)
    await agents.made()  # in the first one's place
    restoring = restorer(agents, tmp_path)
    assert (await restoring.restore(one, tmp_path / snapshot_name(one))).outcome == "occupied"
    restored = await restoring.restore(other, tmp_path / snapshot_name(other))
    assert restored.outcome == "restored"
    assert [passage.text async for passage in agents.store.passages(restored.new_id)] == ["shared"]


async def test_differences_are_named_without_message_texts(agents: Agents, tmp_path: Path) -> None:
    agent, _ = await lived(agents)
    path, changed = tmp_path / "a", tmp_path / "b"
    await capture(agents.store, agent, path)
    text = path.read_bytes().replace("第1句".encode(), b"secret", 1).replace("第3条".encode(), b"other", 1)
    changed.write_bytes(text)
    done = compare(path, changed)
    assert len(done.differences) == 2
    assert any(difference.startswith("message ") and "content" in difference for difference in done.differences)
    assert "1 of 7 passages are missing or differ" in done.differences
    assert not any("secret" in difference or "句" in difference for difference in done.differences)


@fake_only
@pytest.mark.parametrize("harm", ["cut", "counts", "newer", "no_json", "goes_on", "empty"])
async def test_a_damaged_snapshot_is_refused_before_anything_is_written(
    agents: Agents, tmp_path: Path, harm: str
) -> None:
    agent, _ = await lived(agents)
    path = tmp_path / snapshot_name(agent)
    await capture(agents.store, agent, path)
    *before, last = path.read_bytes().splitlines(keepends=True)
    match harm:
        case "cut":
            path.write_bytes(b"".join(before))
        case "counts":
            path.write_bytes(b"".join(before[:-1]) + last)
        case "newer":
            path.write_bytes(b"".join([before[0].replace(b'"format": 1', b'"format": 2'), *before[1:], last]))
        case "no_json":
            path.write_bytes(b"".join([before[0], b"nothing\n", *before[2:], last]))
        case "goes_on":
            path.write_bytes(b"".join([*before, last, last]))
        case "empty":
            path.write_bytes(b"")
    await agents.letta.delete_agent(agent)
    with pytest.raises(SnapshotDamaged):
        await restorer(agents, tmp_path).restore(agent, path)
    assert await agents.letta.find_agents([former_tag(agent)]) == []


@server_only
async def test_variables_are_saved_without_their_values_unless_asked_for(agents: Any, tmp_path: Path) -> None:
    agent = await agents.made()
    await agents.letta.request("PATCH", f"/v1/agents/{agent}", body={"secrets": {"KEY": "very secret"}})
    taken = await capture(agents.store, agent, tmp_path / "without")
    assert taken.left_out == ("values of the variables KEY",)
    assert "very secret" not in (tmp_path / "without").read_text()
    path = tmp_path / snapshot_name(agent)
    assert (await capture(agents.store, agent, path, secrets=True)).left_out == ()
    await agents.letta.delete_agent(agent)
    restored = await restorer(agents, tmp_path).restore(agent, path)
    assert restored.comparison.differences == []
    assert (await agents.store.describe(restored.new_id)).variables == {"KEY": "very secret"}


@server_only
async def test_capture_falls_back_to_listed_messages_that_letta_cannot_export(agents: Any, tmp_path: Path) -> None:
    """Half a surrogate pair in one message fails Letta's own export of the agent."""
    agent = await agents.made()
    await agents.told(agent, "before")
    otid = "3b9c4d0e-0000-4000-8000-000000000001"
    await agents.letta.send(agent, [TurnMessage("user", "half \ud83d here", otid)], timeout=60)
    await agents.told(agent, "after")
    path = tmp_path / snapshot_name(agent)
    taken = await capture(agents.store, agent, path)
    assert taken.left_out == ("the exact form of 1 messages, which Letta cannot export",)
    [short] = [line for line in parts(path, "message") if line.get("exact") is False]
    assert short["row"]["content"] == [{"type": "text", "text": "half  here"}]
    assert short["row"]["otid"] == otid
    await agents.letta.delete_agent(agent)
    restored = await restorer(agents, tmp_path).restore(agent, path)
    assert restored.comparison.differences == []


async def test_an_agent_deleted_while_it_is_read_leaves_no_file(agents: Agents, tmp_path: Path) -> None:
    """Letta then lists no passages, and no error: a snapshot would silently lack them."""
    agent, _ = await lived(agents)

    class Deleting:
        """Deletes the agent once its messages are read."""

        def __getattr__(self, name: str) -> Any:
            return getattr(agents.store, name)

        async def messages(self, described: AgentDescription) -> AsyncIterator[Any]:
            async for message in agents.store.messages(described):
                yield message
            await agents.letta.delete_agent(agent)

    with pytest.raises(AgentGone):
        await capture(Deleting(), agent, tmp_path / "snapshot")
    assert list(tmp_path.iterdir()) == []


async def test_another_backup_of_an_agent_is_not_mistaken_for_the_one_restored_before(
    agents: Agents, tmp_path: Path
) -> None:
    agent, _ = await lived(agents, turns=1)
    path = tmp_path / snapshot_name(agent)
    await capture(agents.store, agent, path)
    await agents.letta.delete_agent(agent)
    first = await restorer(agents, tmp_path).restore(agent, path)
    again = await restorer(agents, tmp_path, "backup-2").restore(agent, path)
    assert (again.outcome, again.other) == ("occupied", first.new_id)


async def test_rejected_agent_is_named_and_removed(
    agents: Agents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = await lived(agents, turns=1)
    path = tmp_path / snapshot_name(agent)
    await capture(agents.store, agent, path)
    await agents.letta.delete_agent(agent)

    async def rejected(*_arguments: Any) -> None:
        raise LettaRejected("no such embedding model")

    monkeypatch.setattr(agents.store, "add_passages", rejected)
    restored = await restorer(agents, tmp_path).restore(agent, path)
    assert (restored.outcome, restored.reason) == ("refused", "no such embedding model")
    assert not restored.complete
    assert await agents.letta.find_agents([former_tag(agent)]) == []
    monkeypatch.undo()
    assert (await restorer(agents, tmp_path).restore(agent, path)).outcome == "restored"


async def test_reading_leaves_nothing_behind_in_letta(agents: Any, tmp_path: Path) -> None:
    agent, _ = await lived(agents)
    before = await agents.rows(agent)
    await capture(agents.store, agent, tmp_path / "snapshot")
    if isinstance(agents.letta, LettaClient):
        assert agents.store._reader._reader in {one.agent_id for one in await agents.store.find([READER_TAG])}
    await agents.store.close()
    if isinstance(agents.letta, LettaClient):
        assert agents.store._reader._reader is None
    assert [replace(row, run_id=None) for row in await agents.rows(agent)] == [
        replace(row, run_id=None) for row in before
    ]


def test_a_snapshot_is_readable_by_people(tmp_path: Path) -> None:
    assert snapshot_name("agent-22006411-d94a-4f4b-9bd9-25f0a9d311a8") == (
        "agent-22006411-d94a-4f4b-9bd9-25f0a9d311a8.jsonl"
    )
    assert "/" not in snapshot_name("../../etc/passwd")
