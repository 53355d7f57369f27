"""Who may use the API, and how it describes itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from letta_bridge.http import access, attempts
from letta_bridge.http.access import require_token
from letta_bridge.settings import HttpSettings, read_settings
from shared_utils.errors import SettingsError

STATISTICS = "/api/sessions/postgres/statistics"
TOKEN = "a-long-token-时"


class Time:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1_000.0


@pytest.fixture
def ask_of(app_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``time, ask = ask_of(address)``: one application, asked from that address with a token or none."""

    def make(address: str) -> tuple[Time, Callable[..., Any]]:
        time = Time()
        monkeypatch.setattr(access, "Attempts", lambda: attempts.Attempts(lambda: time.now))
        transport = httpx.ASGITransport(app_for(), client=(address, 4711))

        async def ask(token: str | None) -> httpx.Response:
            headers: Any = {} if token is None else {"Authorization": f"Bearer {token}".encode()}
            async with httpx.AsyncClient(transport=transport, base_url="http://bridge", headers=headers) as client:
                return await client.get(STATISTICS)

        return time, ask

    return make


async def test_the_right_token_is_let_in(ask: Callable[..., Any]) -> None:
    assert (await ask("GET", STATISTICS)).status_code == 200


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic a-long-token", "bearer a-long-token-时x"]
)
@pytest.mark.parametrize("path", [STATISTICS, "/api", "/api/", "/api/nothing", "/api/users/ada/settings"])
async def test_requests_without_the_token_get_401(ask_as: Callable[..., Any], header: str | None, path: str) -> None:
    headers = {} if header is None else {"Authorization": header.encode()}
    answer = await ask_as(headers)("GET", path)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_strangers_body_is_not_read(app_for: Callable[..., Any]) -> None:
    async def receive() -> None:
        raise AssertionError("the body was read")

    sent = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "PUT", "path": "/api/users/ada/settings", "headers": [], "query_string": b""}
    await app_for()(scope, receive, send)
    assert sent[0]["status"] == 401


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics", "/openapi.json"])
async def test_health_and_metrics_need_no_token(ask_as: Callable[..., Any], path: str) -> None:
    assert (await ask_as({})("GET", path)).status_code == 200


@pytest.mark.parametrize(
    ("base", "status"), [("127.0.0.1", 200), ("localhost:8290", 200), ("[::1]:8290", 200), ("evil.example", 403)]
)
async def test_without_a_token_only_this_machine_is_answered(
    ask_as: Callable[..., Any], base: str, status: int
) -> None:
    ask = ask_as({}, api_token=None)
    assert (await ask("GET", STATISTICS, base=f"http://{base}")).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"), [("http://localhost:3000", 200), ("https://evil.example", 403), ("null", 403)]
)
async def test_without_a_token_no_foreign_page_is_answered(
    ask_as: Callable[..., Any], origin: str, status: int
) -> None:
    answer = await ask_as({"Origin": origin}, api_token=None)("GET", STATISTICS)
    assert answer.status_code == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.7", "bridge.example"])
def test_off_the_loopback_a_token_is_required(host: str) -> None:
    with pytest.raises(SettingsError, match="BRIDGE_API_TOKEN"):
        require_token(HttpSettings(host=host))
    require_token(HttpSettings.model_validate({"host": host, "api_token": "a-secret-of-16-ch"}))
    with pytest.raises(SettingsError, match="has 6 characters and could be guessed"):
        require_token(HttpSettings.model_validate({"host": host, "api_token": "secret"}))


@pytest.mark.parametrize("token", ["", " ", "a token", "to\nken", "tok\0en", "\ud83d"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_token_that_guards_nothing_or_cannot_be_sent_is_refused(host: str, token: str) -> None:
    with pytest.raises(SettingsError, match="BRIDGE_API_TOKEN is empty, or contains a space"):
        require_token(HttpSettings.model_validate({"host": host, "api_token": token}))


def test_an_empty_token_in_config_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"bridge": {"api_token": ""}}')
    with pytest.raises(SettingsError, match=r"the secret bridge\.api_token \(from .*config\.json\) is empty"):
        read_settings(tmp_path / "config.json", environ={})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_loopback_address_needs_no_token(host: str) -> None:
    require_token(HttpSettings(host=host))
    require_token(HttpSettings.model_validate({"host": host, "api_token": "secret"}))


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via"])
async def test_api_without_a_token_refuses_forwarded_requests(ask_as: Callable[..., Any], header: str) -> None:
    answer = await ask_as({header: "203.0.113.7"}, api_token=None)("GET", STATISTICS)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT"])
async def test_no_method_passes_without_the_token(ask_as: Callable[..., Any], method: str) -> None:
    assert (await ask_as({})(method, STATISTICS)).status_code == 401


async def test_address_with_wrong_tokens_is_locked_out_temporarily(ask_of: Callable[..., Any]) -> None:
    time, ask = ask_of("203.0.113.7")
    for _ in range(attempts.MAX_WRONG):
        assert (await ask("wrong")).status_code == 401
    locked = await ask(TOKEN)
    assert (locked.status_code, locked.json()["code"]) == (429, "too_many_attempts")
    assert 0 < int(locked.headers["Retry-After"]) <= attempts.WINDOW_SECONDS
    time.now += attempts.WINDOW_SECONDS
    assert (await ask(TOKEN)).status_code == 200


async def test_an_address_that_sent_the_right_token_is_not_locked_out(ask_of: Callable[..., Any]) -> None:
    _, ask = ask_of("203.0.113.7")
    assert (await ask(TOKEN)).status_code == 200
    for _ in range(attempts.MAX_WRONG + 1):
        assert (await ask("wrong")).status_code == 401
    assert (await ask(TOKEN)).status_code == 200


async def test_request_without_a_token_does_not_count_as_an_attempt(ask_of: Callable[..., Any]) -> None:
    _, ask = ask_of("203.0.113.7")
    for _ in range(attempts.MAX_WRONG + 1):
        assert (await ask(None)).status_code == 401
    assert (await ask(TOKEN)).status_code == 200


def test_a_flood_of_addresses_is_forgotten() -> None:
    time = Time()
    known = attempts.Attempts(lambda: time.now)
    for number in range(20_000):
        known.wrong(f"address-{number}")
    assert len(known._addresses) == 10_000


async def test_openapi_describes_every_route_and_the_token(ask_as: Callable[..., Any]) -> None:
    schema = (await ask_as({})("GET", "/openapi.json")).json()
    assert {path for path in schema["paths"] if path.startswith("/api/")} == {
        "/api/sessions/postgres/sessions",
        "/api/sessions/postgres/sessions/{session_id}",
        "/api/sessions/postgres/sessions/{session_id}/undelete",
        "/api/sessions/postgres/statistics",
        "/api/sessions/postgres/restore",
        "/api/sessions/postgres/cleanup",
        "/api/sessions/postgres/connection/test",
        "/api/sessions/restored",
        "/api/sessions/restore",
        "/api/users/{user_id}/settings",
    }
    assert schema["paths"]["/api/sessions/restored"]["get"]["security"] == [{"token": []}]
    assert "security" not in schema["paths"]["/livez"]["get"]
    ids = [operation["operationId"] for path in schema["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


async def test_an_unknown_path_answers_like_the_rest(ask: Callable[..., Any]) -> None:
    answer = await ask("GET", "/api/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert (await ask("PATCH", STATISTICS)).json()["code"] == "method_not_allowed"
