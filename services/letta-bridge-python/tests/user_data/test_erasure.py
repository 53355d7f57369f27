"""A user is told, exported and erased everywhere; a place that fails does not lose count."""

from __future__ import annotations

import json

import pytest

from letta_bridge.errors import LettaUnavailable
from letta_bridge.letta import AgentSpec, Block, InMemoryLetta, TurnMessage
from letta_bridge.user_data.agent_trace import AgentTrace
from letta_bridge.user_data.erasure import UserData
from letta_bridge.user_data.session_trace import SessionTrace
from shared_utils.persistence.erasures import FileErasureLog
from shared_utils.persistence.file_sessions import FileSessionStore

USERS = tuple(f"用户{number}" for number in range(20))


@pytest.fixture
def letta():
    return InMemoryLetta(models=frozenset({"fake/model"}))


@pytest.fixture
async def sessions(tmp_path):
    store = FileSessionStore(tmp_path / "sessions.db")
    yield store
    await store.close()


@pytest.fixture
async def everywhere(letta, sessions, tmp_path):
    """Twenty users with two agents each, and a session for each of them."""
    for user in USERS:
        for persona in ("default", "cat"):
            spec = AgentSpec(
                name="bridge-x",
                tags=("bridge", f"user:{user}", f"persona:{persona}"),
                model="fake/model",
                embedding=None,
                agent_type="letta_v1_agent",
                blocks=(Block("human", ""),),
                tools=(),
            )
            agent = await letta.create_agent(spec)
            await letta.send(agent.agent_id, [TurnMessage("user", f"我是{user}", f"{user}-{persona}")], timeout=5)
            await sessions.reserve(user, persona)
    traces = (AgentTrace(letta), SessionTrace(sessions))
    return UserData(traces, FileErasureLog(tmp_path / "erasures.jsonl"))


async def test_erasing_one_user_touches_no_other(everywhere):
    everything = {"agents": 2, "sessions": 2}
    assert await everywhere.erase("用户7") == everything
    for user in USERS:
        assert await everywhere.count(user) == ({"agents": 0, "sessions": 0} if user == "用户7" else everything)
    assert await everywhere.erase("用户7") == {"agents": 0, "sessions": 0}


async def test_what_broke_off_is_gone_on_with(everywhere, letta):
    letta.down = True
    with pytest.raises(LettaUnavailable):
        await everywhere.erase("用户1")
    letta.down = False
    broken = UserData((everywhere.traces[0], AwayTrace()), everywhere.audit)
    with pytest.raises(ConnectionError):
        await broken.erase("用户1")
    assert await everywhere.erase("用户1") == {"agents": 2, "sessions": 2}
    [row] = await everywhere.audit.history("用户1")
    assert row["counts"] == {"agents": 2, "sessions": 2}
    assert row["finished_at"]


async def test_an_export_is_complete_with_its_manifest(everywhere, tmp_path):
    folder = tmp_path / "export"
    assert await everywhere.export("用户3", folder) == {"agents": 2, "sessions": 2}
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["user_id"] == "用户3"
    files = list((folder / "agents").glob("*.af"))
    assert len(files) == 2
    assert all("我是用户3" in json.dumps(json.loads(file.read_bytes()), ensure_ascii=False) for file in files)
    rows = [json.loads(line) for line in (folder / "sessions.jsonl").read_text("utf-8").splitlines()]
    assert {row["persona"] for row in rows} == {"default", "cat"}


class AwayTrace:
    """A place that cannot be reached."""

    async def erase(self, user_id):
        raise ConnectionError
