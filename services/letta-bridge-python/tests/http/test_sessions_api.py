"""The sessions API: what each route does, and what it says where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from shared_utils.clock import utc_now
from shared_utils.persistence.errors import DatabaseRefused, StaleSession, ValueRefused
from shared_utils.persistence.sessions.port import Session

if TYPE_CHECKING:
    from letta_bridge_tests.http.conftest import FakeSessions

BASE = "/api/sessions/postgres"


async def test_a_page_of_sessions(ask: Callable[..., Any], sessions: FakeSessions) -> None:
    for user in ("ada", "小明", "bo"):
        await sessions.add(user)
    ended = await sessions.add("eve")
    await sessions.store.delete(ended.session_id)
    page = (await ask("GET", f"{BASE}/sessions?limit=2&offset=1")).json()
    assert [one["user_id"] for one in page["sessions"]] == ["小明", "ada"]
    assert (page["total"], page["limit"], page["offset"]) == (3, 2, 1)
    everybody = (await ask("GET", f"{BASE}/sessions?include_inactive=true")).json()
    assert everybody["total"] == 4
    mine = (await ask("GET", f"{BASE}/sessions", params={"user_id": "小明"})).json()
    assert [one["agent_id"] for one in mine["sessions"]] == ["agent-小明"]


async def test_a_session_is_returned_with_all_its_fields(ask: Callable[..., Any], sessions: FakeSessions) -> None:
    session = await sessions.add("ada", metadata={"permanent_memory": False}, session_data={"mood": "开心"})
    found = (await ask("GET", f"{BASE}/sessions/{session.session_id}")).json()
    assert found["session_data"] == {"mood": "开心"}
    assert (found["permanent_memory"], found["is_active"], found["version"]) == (False, True, 2)
    assert found["created_at"].endswith(("Z", "+00:00"))


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/x"), ("DELETE", "/x"), ("POST", "/x/undelete"), ("DELETE", "/x?hard=true")]
)
async def test_a_session_that_is_not_there_is_404(ask: Callable[..., Any], method: str, path: str) -> None:
    answer = await ask(method, f"{BASE}/sessions{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "row_missing")


async def test_a_session_is_ended_and_made_active_again(ask: Callable[..., Any], sessions: FakeSessions) -> None:
    session = await sessions.add("ada")
    path = f"{BASE}/sessions/{session.session_id}"
    assert (await ask("DELETE", path)).json() == {"session_id": session.session_id, "hard": False}
    assert (await ask("GET", path)).json()["is_active"] is False
    assert (await ask("DELETE", path)).status_code == 404
    assert (await ask("POST", f"{path}/undelete")).json()["is_active"] is True
    assert (await ask("DELETE", f"{path}?hard=true")).json()["hard"] is True
    assert (await ask("GET", path)).status_code == 404
    assert set(sessions.forgotten) == {("ada", "default")}


async def test_two_active_sessions_of_one_user_are_a_conflict(ask: Callable[..., Any], sessions: FakeSessions) -> None:
    old = await sessions.add("ada")
    await sessions.store.delete(old.session_id)
    await sessions.add("ada")
    answer = await ask("POST", f"{BASE}/sessions/{old.session_id}/undelete")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


async def test_statistics_count_sessions_by_state(ask: Callable[..., Any], sessions: FakeSessions) -> None:
    await sessions.add("ada")
    await sessions.store.reserve("bo", "default")
    numbers = (await ask("GET", f"{BASE}/statistics")).json()
    assert (numbers["total"], numbers["active"], numbers["reserved"]) == (2, 2, 1)
    assert numbers["last_seen"]["1h"] == 2


async def test_cleanup_ends_expired_sessions_and_removes_old_ones(
    ask: Callable[..., Any], sessions: FakeSessions
) -> None:
    await sessions.add("ada", expires_at=utc_now() - timedelta(hours=1))
    assert (await ask("POST", f"{BASE}/cleanup")).json() == {"ended": 1, "removed": 0}
    assert (await ask("POST", f"{BASE}/cleanup?grace_hours=0")).json() == {"ended": 0, "removed": 1}


@pytest.mark.parametrize("path", [f"{BASE}/restore", "/api/sessions/restore"])
async def test_restore_endpoint_names_unreadable_sessions(
    ask: Callable[..., Any], sessions: FakeSessions, path: str
) -> None:
    await sessions.add("ada")
    sessions.failed = {"s9": "metadata is not a JSON object"}
    assert (await ask("POST", path)).json() == {"restored": 1, "failed": sessions.failed}
    restored = (await ask("GET", "/api/sessions/restored")).json()
    assert [one["user_id"] for one in restored["sessions"]] == ["ada"]
    assert restored["failed"] == sessions.failed


async def test_before_a_restore_nothing_is_restored(ask: Callable[..., Any]) -> None:
    assert (await ask("GET", "/api/sessions/restored")).json()["total"] == 0


async def test_connection_endpoint_names_the_store(ask: Callable[..., Any], sessions: FakeSessions) -> None:
    found = (await ask("GET", f"{BASE}/connection/test")).json()
    assert found == {"connected": True, "store": "memory of this process", "trouble": None}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{BASE}/sessions"),
        ("GET", f"{BASE}/sessions/x"),
        ("DELETE", f"{BASE}/sessions/x"),
        ("POST", f"{BASE}/sessions/x/undelete"),
        ("GET", f"{BASE}/statistics"),
        ("POST", f"{BASE}/cleanup"),
        ("GET", f"{BASE}/connection/test"),
        ("POST", f"{BASE}/restore"),
        ("POST", "/api/sessions/restore"),
    ],
)
async def test_a_store_that_is_unavailable_is_503(
    ask: Callable[..., Any], sessions: FakeSessions, method: str, path: str
) -> None:
    sessions.store.broken = True
    answer = await ask(method, path)
    assert (answer.status_code, answer.json()["code"]) == (503, "session_store_away")
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StaleSession("it changed"), 409),
        (ValueRefused("too large"), 422),
        (DatabaseRefused("the URL postgresql://bo:hunter2@host/db is refused"), 503),
    ],
)
async def test_each_error_has_its_status_and_shows_no_password(
    ask: Callable[..., Any],
    sessions: FakeSessions,
    monkeypatch: pytest.MonkeyPatch,
    error: DatabaseRefused | StaleSession | ValueRefused,
    status: int,
) -> None:
    async def fail(_session_id: str) -> None:
        raise error

    monkeypatch.setattr(sessions.store, "load", fail)
    answer = await ask("GET", f"{BASE}/sessions/x")
    assert (answer.status_code, answer.json()["code"]) == (status, error.code)
    assert "hunter2" not in answer.text


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=many", "offset=-1", "include_inactive=perhaps"])
async def test_a_wrong_parameter_is_named(ask: Callable[..., Any], query: str) -> None:
    answer = await ask("GET", f"{BASE}/sessions?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert query.partition("=")[0] in answer.json()["error"]


@pytest.mark.parametrize("user", ["ada", "小明", "a/b c?d%", "settings"])
async def test_a_user_switches_permanent_memory_off_and_on(ask: Callable[..., Any], sessions: Any, user: Any) -> None:
    path = f"/api/users/{quote(user, safe='')}/settings"
    assert (await ask("GET", path)).json() == {"user_id": user, "permanent_memory": True}
    assert (await ask("PUT", path, json={"permanent_memory": False})).json()["permanent_memory"] is False
    assert (await ask("GET", path)).json() == {"user_id": user, "permanent_memory": False}
    # For every persona, also for those the user has not met.
    for persona in ("default", "teacher"):
        assert not (await sessions.store.find(user, persona)).permanent_memory
        assert (user, persona) in sessions.forgotten
    assert (await ask("PUT", path, json={"permanent_memory": True})).json()["permanent_memory"] is True
    assert (await sessions.store.find(user, "teacher")).permanent_memory


async def test_a_choice_changes_nothing_else(ask: Callable[..., Any], sessions: FakeSessions) -> None:
    await sessions.add("ada", metadata={"theme": "dark"}, session_data={"mood": "ok"})
    await ask("PUT", "/api/users/ada/settings", json={"permanent_memory": False})
    session = await sessions.store.find("ada", "default")
    assert session is not None
    assert session.metadata == {
        "theme": "dark",
        "permanent_memory": False,
        "permanent_memory_chosen_ms": session.metadata["permanent_memory_chosen_ms"],
    }
    assert session is not None
    assert (session.agent_id, session.session_data) == ("agent-ada", {"mood": "ok"})


async def test_switching_on_makes_no_session(ask: Callable[..., Any], sessions: FakeSessions) -> None:
    await ask("PUT", "/api/users/ada/settings", json={"permanent_memory": True})
    assert sessions.store.sessions == {}


async def test_a_choice_survives_a_bridge_that_writes_at_the_same_time(
    ask: Callable[..., Any], sessions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sessions.add("ada")
    save, tries = sessions.store.save, []

    async def stale_at_first(session: Session, **how: Any) -> Any:
        tries.append(session.persona)
        if len(tries) == 1:
            raise StaleSession
        return await save(session, **how)

    monkeypatch.setattr(sessions.store, "save", stale_at_first)
    assert (await ask("PUT", "/api/users/ada/settings", json={"permanent_memory": False})).status_code == 200
    assert not (await sessions.store.find("ada", "default")).permanent_memory


@pytest.mark.parametrize("body", ["{}", '{"permanent_memory": "no"}', '{"permanent_memory": true, "x": 1}', "nonsense"])
async def test_a_choice_that_is_none_is_422(ask: Callable[..., Any], body: str) -> None:
    answer = await ask("PUT", "/api/users/ada/settings", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/api/users/ada%FF/settings"),
        ("GET", "/api/users/ada%ED%A0%BD/settings"),
        ("GET", f"{BASE}/sessions?user_id=ada%FF"),
    ],
)
async def test_url_that_is_not_utf8_is_refused(
    ask: Callable[..., Any], sessions: FakeSessions, method: str, path: str
) -> None:
    await sessions.add("ada\ufffd")
    answer = await ask(method, path, json={"permanent_memory": False})
    assert (answer.status_code, answer.json()["error"].partition(";")[0]) == (400, "the address is not UTF-8")
    namesake = quote("ada\ufffd")
    assert (await ask("GET", f"/api/users/{namesake}/settings")).json()["permanent_memory"] is True


async def test_a_body_with_half_a_character_gets_a_sentence(ask: Callable[..., Any]) -> None:
    answer = await ask("PUT", "/api/users/ada/settings", content=b'{"permanent_memory":true,"\\ud83d":1}')
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
