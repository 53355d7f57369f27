"""``letta-bridge user``, as typed, on a real Redis and a Letta that is away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from letta_bridge.main import app
from letta_bridge.turn.uploads import user_folder

pytestmark = pytest.mark.integration
Q = "{letta_requests}"


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Callable[..., Any]:
    """A command on the real Redis, without a Letta; fails the test unless it ends with the code expected."""
    config = tmp_path / "config.json"
    config.write_text("{}", encoding="utf-8")
    variables = {
        "LETTA_BRIDGE_CONFIG": str(config),
        "DATA_DIR": str(tmp_path / "data"),
        "TERM": "dumb",
        "REDIS_URL": redis_url,
        "LETTA_API_URL": "http://127.0.0.1:1",
    }
    for name in ("DATABASE_URL", "LETTA_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def on(*arguments: str, code: int = 0, **environ: Any) -> Result:
        result = CliRunner().invoke(app, arguments, env=variables | environ)
        assert result.exit_code == code, result.output
        return result

    return on


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def hold(client: redis.Redis, user: str, seconds: int = 60) -> None:
    now = int(time.time() * 1000)
    client.hset(f"{Q}:held", user, f"{now + seconds * 1000} {now - 5000} {now} holder an erasure")


def test_erase_names_an_unreachable_place_and_erases_the_others(
    on: Callable[..., Any], client: redis.Redis, tmp_path: Path
) -> None:
    client.lpush("letta_requests", json.dumps({"task_id": "t", "user_id": "ada", "content": "x"}))
    client.set(f"{Q}:reply:ada:t0", json.dumps({"user_id": "ada"}))
    folder = tmp_path / "data" / "uploads" / user_folder("ada")
    folder.mkdir(parents=True)
    (folder / "note.txt").write_text("x")
    result = on("user", "erase", "ada", "--yes", code=1)
    rows = {line[:26].strip(): line[26:].split() for line in result.output.splitlines() if line.split()[-1:] != []}
    assert rows["waiting tasks"] == ["1", "1", "0"]
    assert rows["kept replies"] == ["1", "1", "0"]
    assert rows["uploads"] == ["1", "1", "0"]
    assert "could not be reached: agents in Letta:" in result.output
    assert "no erasure reaches:" in result.output
    assert "the erasure is incomplete" in result.output
    assert not folder.exists()
    assert not client.exists(f"{Q}:held")


def test_a_hold_is_shown_and_released(on: Callable[..., Any], client: redis.Redis) -> None:
    hold(client, "小明")
    lanes = on("lanes").output
    assert "held: 小明 for 5" in lanes
    assert "(an erasure)" in lanes
    assert "users held           1" in on("status", code=1).output
    [shown] = json.loads(on("lanes", "--json").output)["held"]
    assert (shown["lane"], shown["why"]) == ("小明", "an erasure")
    assert "released" in on("user", "release", "小明").output
    assert "held:" not in on("lanes").output
    assert "is not held" in on("user", "release", "小明", code=1).output


@pytest.mark.parametrize("user", ["小明", "~7"])
def test_operator_holds_one_user_and_no_erasure_takes_that_over(
    on: Callable[..., Any], client: redis.Redis, user: str
) -> None:
    assert "held for 2 h" in on("user", "hold", user, "--for", "2h", "--reason", "floods").output
    assert "(floods)" in on("lanes").output
    assert "ends in 1 h 59 min" in on("lanes").output
    assert "an operator holds this user's lane" in on("user", "erase", user, "--yes", code=1).output
    assert "held for 10 s" in on("user", "hold", user, "--for", "10s").output
    assert "released" in on("user", "release", user).output
    assert not client.exists(f"{Q}:held")


@pytest.mark.parametrize("period", ["", "soon", "0s", "31d", "-1h"])
def test_user_is_held_for_a_sensible_time_only(on: Callable[..., Any], client: redis.Redis, period: str) -> None:
    assert "is not a valid duration" in on("user", "hold", "ada", f"--for={period}", code=2).output
    assert not client.exists(f"{Q}:held")


def test_user_whom_an_erasure_holds_is_not_held_by_an_operator(on: Callable[..., Any], client: redis.Redis) -> None:
    hold(client, "ada")
    assert "an erasure holds this user" in on("user", "hold", "ada", code=1).output


def test_another_erasure_of_the_same_user_is_waited_for_no_longer_than_asked(
    on: Callable[..., Any], client: redis.Redis
) -> None:
    hold(client, "ada")
    result = on("user", "erase", "ada", "--yes", "--wait", "0", code=1)
    assert "another erasure holds this user's lane" in result.output
    threading.Timer(0.5, client.hdel, (f"{Q}:held", "ada")).start()
    assert "agents in Letta" in on("user", "erase", "ada", "--yes", "--wait", "30", code=1).output


def test_a_turn_that_does_not_end_stops_the_erasure_before_anything_goes(
    on: Callable[..., Any], client: redis.Redis
) -> None:
    client.hset(f"{Q}:lanes", "ada", "1-1")
    client.set(f"{Q}:reply:ada:t0", json.dumps({"user_id": "ada"}))
    result = on("user", "erase", "ada", "--yes", "--wait", "0.1", code=1)
    assert "a turn of this user has been in flight" in result.output
    assert client.exists(f"{Q}:reply:ada:t0")
    assert not client.exists(f"{Q}:held")


def test_the_folder_of_a_users_uploads_is_printed_and_not_made(on: Callable[..., Any], tmp_path: Path) -> None:
    printed = on("user", "folder", "a/../b").output.strip()
    assert printed == str(tmp_path / "data" / "uploads" / user_folder("a/../b"))
    assert not (tmp_path / "data").exists()


def test_an_id_that_no_producer_can_have_sent_is_a_wrong_argument(on: Callable[..., Any]) -> None:
    assert "not UTF-8" in on("user", "show", "\udcff", code=2).output


def test_show_creates_nothing(on: Callable[..., Any], tmp_path: Path) -> None:
    on("user", "show", "ada", code=1)  # Letta is away
    assert not (tmp_path / "data").exists()


def test_empty_user_id_is_refused_and_the_total_token_count_stays(on: Callable[..., Any], client: redis.Redis) -> None:
    client.hset(f"{Q}:tokens:20000", mapping={"": 5, "ada": 5})
    assert "a user id cannot be empty" in on("user", "erase", "", "--yes", code=2).output
    assert client.hget(f"{Q}:tokens:20000", "") == b"5"
