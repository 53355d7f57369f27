"""A user is told, exported and erased everywhere; what cannot be reached is said, and done when it is run again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from letta_bridge.errors import LettaUnavailable
from letta_bridge.letta import AgentSpec, Block, TurnMessage
from letta_bridge.testing.agent_store import InMemoryAgentStore
from letta_bridge.testing.letta import InMemoryLetta
from letta_bridge.user_data import erasure as erasure_module
from letta_bridge.user_data.agent_data import AgentUserData
from letta_bridge.user_data.erasure import UserData
from letta_bridge.user_data.port import ErasureBusy
from letta_bridge.user_data.report import ErasureReport
from letta_bridge.user_data.session_data import SessionUserData
from shared_utils.persistence.choices.file_store import FileChoiceStore
from shared_utils.persistence.choices.port import imported_opt_out
from shared_utils.persistence.erasures.log import Erasure, FileErasureLog
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.sessions.file_store import FileSessionStore

USERS = tuple(f"用户{number}" for number in range(20))


class QuietLane:
    """A lane of which it is noted when it was held, emptied and marked."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.waiting = 0
        self.busy = False
        self.late = ["old-bridge"]

    @contextlib.asynccontextmanager
    async def held(self, user_id: str) -> AsyncIterator[None]:
        self.steps.append("held")
        try:
            yield
        finally:
            self.steps.append("released")

    async def quiet(self, user_id: str) -> int:
        self.steps.append("quiet")
        if self.busy:
            raise ErasureBusy
        refused, self.waiting = self.waiting, 0
        return refused

    async def mark(self, user_id: str) -> int:
        self.steps.append("marked")
        return 1

    async def lasts(self, user_id: str, at_ms: int) -> bool:
        return True

    async def behind(self, at_ms: int) -> list[str]:
        return self.late


class Found:
    """A search that finds these keys."""

    def __init__(self, *keys: str) -> None:
        self.keys = list(keys)

    async def find(self, user_id: str) -> list[Any]:
        return self.keys


class Place:
    """A place with so many things of everybody; it can be away, and grow while it is erased."""

    def __init__(self, name: str, count: int = 1) -> None:
        self.name = name
        self.left = count
        self.away = None
        self.grows = 0

    async def count(self, user_id: str) -> dict[str, int]:
        if self.away:
            raise self.away
        return {self.name: self.left}

    async def erase(self, user_id: str) -> Any:
        if self.away:
            raise self.away
        gone, self.left = self.left, min(1, self.grows)
        self.grows = max(0, self.grows - 1)
        return {self.name: gone}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure_module, "_FOLLOW_PAUSE_SECONDS", 0.0)


@pytest.fixture
def audit(tmp_path: Path) -> FileErasureLog:
    return FileErasureLog(tmp_path / "erasures.jsonl")


@pytest.fixture
def lane() -> QuietLane:
    return QuietLane()


@pytest.fixture
def letta() -> InMemoryLetta:
    return InMemoryLetta(models=frozenset({"fake/model"}))


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[FileSessionStore]:
    store = FileSessionStore(tmp_path / "sessions.db")
    yield store
    await store.close()


@pytest.fixture
async def everywhere(
    letta: InMemoryLetta, sessions: FileSessionStore, audit: FileErasureLog, lane: QuietLane
) -> erasure_module.UserData:
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
    traces = (AgentUserData(letta, InMemoryAgentStore(letta)), SessionUserData(sessions))
    return UserData(traces, audit, lane, Found())


def removed(report: ErasureReport) -> dict[str, int]:
    return {name: place.removed for name, place in report.places.items() if name != "waiting_tasks"}


async def test_erasing_one_user_touches_no_other(everywhere: erasure_module.UserData) -> None:
    everything = {"agents": 2, "sessions": 2}
    report = await everywhere.erase("用户7")
    assert report.complete
    assert removed(report) == everything
    for user in USERS:
        assert await everywhere.count(user) == ({"agents": 0, "sessions": 0} if user == "用户7" else everything)
    assert removed(await everywhere.erase("用户7")) == {"agents": 0, "sessions": 0}


async def test_an_opt_out_of_an_earlier_release_outlives_its_session(
    sessions: FileSessionStore, tmp_path: Path
) -> None:
    choices = FileChoiceStore(tmp_path / "choices.db")
    for user, metadata in {"ada": {"permanent_memory": False}, "bo": {"permanent_memory": True}, "cy": {}}.items():
        await sessions.save(replace(await sessions.reserve(user, "default"), metadata=metadata))
        assert await SessionUserData(sessions, choices=choices).erase(user) == {"sessions": 1}
    assert await choices.page() == [imported_opt_out("ada")]
    await choices.close()


async def test_the_lane_is_held_and_quiet_before_anything_goes(
    everywhere: erasure_module.UserData, lane: QuietLane
) -> None:
    lane.waiting = 60
    report = await everywhere.erase("用户1")
    assert lane.steps == ["held", "quiet", "marked", "quiet", "released"]
    assert report.place("waiting_tasks").removed == 60
    assert report.behind == ["old-bridge"]


async def test_erasure_reports_its_steps_in_order(everywhere: erasure_module.UserData) -> None:
    steps: list[Any] = []
    await everywhere.erase("用户7", steps.append)
    assert steps[0] == "holding the user's lane"
    assert steps.index("refusing what waits, and waiting for the turn in flight") < steps.index("erasing sessions")
    assert "counting what is left: sessions" in steps
    assert steps[-2:] == ["looking through every key in Redis for the user", "waiting for the bridges to follow"]


async def test_while_a_turn_does_not_end_nothing_is_erased(
    everywhere: erasure_module.UserData, lane: QuietLane
) -> None:
    lane.busy = True
    with pytest.raises(ErasureBusy):
        await everywhere.erase("用户1")
    assert lane.steps == ["held", "quiet", "released"]
    assert await everywhere.count("用户1") == {"agents": 2, "sessions": 2}


async def test_a_place_that_is_unavailable_is_said_and_the_others_are_erased(
    everywhere: erasure_module.UserData, letta: InMemoryLetta
) -> None:
    letta.down = True
    report = await everywhere.erase("用户1")
    assert not report.complete
    assert list(report.unreachable) == ["agents in Letta"]
    assert (report.place("sessions").removed, report.place("sessions").left) == (2, 0)
    [row] = await everywhere.audit.history("用户1")
    assert row["finished_at"] is None
    letta.down = False
    assert removed(await everywhere.erase("用户1")) == {"agents": 2, "sessions": 2}
    [row] = await everywhere.audit.history("用户1")
    assert row["counts"].items() >= {"agents": 2, "sessions": 2}.items()
    assert row["finished_at"]


async def test_without_an_audit_nothing_is_erased(
    everywhere: erasure_module.UserData, lane: QuietLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(user_id: str) -> None:
        raise PersistenceError("the database is away")

    monkeypatch.setattr(everywhere.audit, "begin", away)
    with pytest.raises(PersistenceError):
        await everywhere.erase("用户1")
    assert lane.steps == []
    assert await everywhere.count("用户1") == {"agents": 2, "sessions": 2}


@pytest.mark.parametrize("step", range(9))
async def test_killed_at_any_step_it_continues_when_it_is_run_again(audit: Any, lane: Any, step: int) -> None:
    class Killed(BaseException):
        pass

    places: Any = [Place("a", 3), Place("b", 5)]
    reached = 0

    def passing(work: Callable[..., Any]) -> Callable[..., Any]:
        async def step_of(*args: str) -> Any:
            nonlocal reached
            reached += 1
            if reached == step + 1:
                raise Killed
            return await work(*args)

        return step_of

    for place in places:
        place.erase, place.count = passing(place.erase), passing(place.count)
    lane.quiet, lane.mark = passing(lane.quiet), passing(lane.mark)
    data = UserData(places, audit, lane, Found())
    with pytest.raises(Killed):
        await data.erase("ada")
    report = await data.erase("ada")
    assert report.complete
    assert [place.left for place in places] == [0, 0]
    [row] = await audit.history("ada")
    assert row["finished_at"]


async def test_erasure_reports_an_audit_that_fails_at_the_end(
    audit: Any, lane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(erasure: Erasure, *, finished: bool = False) -> None:
        raise PersistenceError("the database postgresql://u:hunter2@db/x is away")

    monkeypatch.setattr(audit, "note", away)
    place: Any = Place("a", 3)
    report = await UserData((place,), audit, lane, Found()).erase("ada")
    assert (report.complete, place.left) == (False, 0)
    assert report.unreachable == {"audit": "the database postgresql://u:***@db/x is away"}


async def test_erasure_repeats_for_data_written_meanwhile(audit: Any, lane: Any) -> None:
    place: Any = Place("a", 3)
    place.grows = 2
    report = await UserData((place,), audit, lane, Found()).erase("ada")
    assert report.complete
    assert report.place("a").removed == 5
    assert lane.steps.count("marked") == 3


async def test_erasure_is_incomplete_if_data_keeps_appearing(audit: Any, lane: Any) -> None:
    place: Any = Place("a", 3)
    place.grows = 100
    report = await UserData((place,), audit, lane, Found()).erase("ada")
    assert (report.complete, report.place("a").left) == (False, 1)


async def test_a_key_that_still_names_the_user_is_no_complete_erasure(audit: Any, lane: Any) -> None:
    report = await UserData((cast("Any", Place("a")),), audit, lane, Found("{letta_requests}:new_kind")).erase("ada")
    assert (report.complete, report.elsewhere) == (False, ["{letta_requests}:new_kind"])
    [row] = await audit.history("ada")
    assert row["finished_at"] is None


async def test_tasks_that_come_after_the_last_refusal_are_no_leftover(audit: Any, lane: Any) -> None:
    class Waiting(Place):
        async def erase(self, user_id: str) -> Any:
            return {}

    report = await UserData((cast("Any", Waiting("waiting_tasks", 2)),), audit, lane, Found()).erase("ada")
    assert (report.complete, report.arrived_since) == (True, 2)


async def test_an_export_is_complete_with_its_manifest(everywhere: erasure_module.UserData, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    counts = {"agents": 2, "agent_messages": 6, "agent_passages": 0, "sessions": 2}
    assert await everywhere.export("用户3", folder) == counts
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["user_id"] == "用户3"
    files, snapshots = ([*(folder / "agents").glob(f"*.{ending}")] for ending in ("af", "jsonl"))
    assert len(files) == len(snapshots) == 2
    assert all("我是用户3" in json.dumps(json.loads(file.read_bytes()), ensure_ascii=False) for file in files)
    assert all("我是用户3" in file.read_text("utf-8") for file in snapshots)
    contents = json.loads((folder / "agents" / "contents.json").read_text("utf-8"))
    assert {about["file"] for about in contents["agents"]} == {file.name for file in snapshots}
    assert contents["never_carried"]
    assert {oct(file.stat().st_mode & 0o777) for file in folder.rglob("*") if file.is_file()} == {"0o600"}
    rows = [json.loads(line) for line in (folder / "sessions.jsonl").read_text("utf-8").splitlines()]
    assert {row["persona"] for row in rows} == {"default", "cat"}


async def test_letta_unavailable_is_counted_as_unknown(
    everywhere: erasure_module.UserData, letta: InMemoryLetta
) -> None:
    letta.down = True
    report = await everywhere.erase("用户2")
    assert "agents" not in report.places or report.place("agents").left is None
    with pytest.raises(LettaUnavailable):
        await everywhere.count("用户2")
