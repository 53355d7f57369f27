"""The operator's commands, as typed: what they print, what they change in a real Redis, and their exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from letta_bridge.main import app
from letta_bridge.request_queue.failure_causes import advice, meaning

VARIABLES = ("REDIS_URL", "REDIS_HOST", "REDIS_PASSWORD", "LETTA_API_URL", "LETTA_API_KEY", "LETTA_BRIDGE_CONFIG")
Q = "{letta_requests}"
SECRET = "hunter2secret"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A command with an empty configuration of its own."""
    config = tmp_path / "config.json"
    config.write_text("{}", encoding="utf-8")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str, stdin: str | None = None, **environ: str) -> Result:
        variables = {"LETTA_BRIDGE_CONFIG": str(config), "DATA_DIR": str(tmp_path), "TERM": "dumb", **environ}
        return CliRunner().invoke(app, arguments, env=variables, input=stdin)

    return call


@pytest.fixture
def on(call: Callable[..., Any], redis_url: str) -> Callable[..., Any]:
    """A command on the real Redis; fails the test unless it ends with the code expected."""

    def on(*arguments: str, code: int = 0, **environ: str) -> Any:
        result = call(*arguments, REDIS_URL=redis_url, **environ)
        assert result.exit_code == code, result.output
        return result

    return on


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def bury(client: redis.Redis, *task_ids: str, code: str = "malformed") -> None:
    for task_id in task_ids:
        about = {
            "code": code,
            "reason": "读不懂 \x1b[31m",
            "attempts": 2,
            "time": 1.0,
            "task_id": task_id,
            "user_id": "小明",
        }
        task = {"task_id": task_id, "user_id": "小明", "content": "你好"}
        letter = f"{json.dumps(about, ensure_ascii=False)}\n{json.dumps(task, ensure_ascii=False)}"
        client.lpush(f"{Q}:dead", letter)


def reply(client: Any, text: str, user: str = "ada") -> Any:
    content = {"task_id": "t", "user_id": user, "response_text": text, "source": "letta"}
    return client.xadd(f"{Q}:replies", {"reply": json.dumps(content, ensure_ascii=False)}).decode()


@pytest.mark.integration
def test_tail_shows_late_replies_with_their_chinese(on: Callable[..., Any], client: redis.Redis) -> None:
    for text in ("one", "two", "你好\x1b]0;x\x07\nthere"):
        reply(client, text)
    shown = on("tail", "--no-follow", "-n", "2").stdout
    assert "one" not in shown
    assert "ada  t  letta: two" in shown
    assert "你好 ]0;x  there" in shown
    assert "\x1b" not in shown


@pytest.mark.integration
def test_tail_since_a_reply_that_was_seen_continues_after_it(on: Callable[..., Any], client: redis.Redis) -> None:
    first = reply(client, "one")
    reply(client, "two", user="bo")
    reply(client, "three")
    lines = [json.loads(line) for line in on("tail", "--no-follow", "--json", "--since", first).stdout.splitlines()]
    assert [line["reply"]["response_text"] for line in lines] == ["two", "three"]
    assert lines[0]["id"] > first
    assert "two" in on("tail", "--no-follow", "--since", "10m").stdout
    assert on("tail", "--no-follow", "--since", "start", "--user", "bo").stdout.count("\n") == 1
    assert on("tail", "--no-follow", "--since", "2999-01-01").stdout == ""


@pytest.mark.process
@pytest.mark.integration
def test_ctrl_c_ends_a_following_tail_silently(redis_url: str, client: redis.Redis) -> None:
    reply(client, "one")
    tail = subprocess.Popen(
        [sys.executable, "-m", "letta_bridge.main", "tail"],
        env={**os.environ, "REDIS_URL": redis_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has them ignore Ctrl-C, and so would this child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509  # no threads yet
    )
    assert tail.stdout is not None
    assert "letta: one" in tail.stdout.readline()
    tail.send_signal(signal.SIGINT)
    assert tail.communicate(timeout=60) == ("", "")
    assert tail.returncode == 0


def test_tail_refuses_an_invalid_since(call: Callable[..., Any]) -> None:
    result = call("tail", "--since", "yesterday")
    assert (result.exit_code, "'yesterday'" in result.stderr) == (2, True)


@pytest.mark.integration
def test_dead_letters_are_listed_shown_retried_and_dropped(on: Callable[..., Any], client: Any) -> None:
    bury(client, "t1", "t2")
    bury(client, "t3", code="internal")
    table = on("dead", "list").stdout
    assert "读不懂" in table
    assert "\x1b" not in table
    assert "3 of 3 dead letters" in table
    newest, second, oldest = json.loads(on("dead", "list", "--json").stdout)["letters"]
    assert (newest["task_id"], newest["code"], oldest["position"]) == ("t3", "internal", 1)
    assert '"content": "你好"' in on("dead", "show", second["id"]).stdout
    assert json.loads(on("dead", "show", second["id"], "--raw").stdout)["task_id"] == "t2"
    assert "1 letter put back" in on("dead", "retry", oldest["id"][:8]).stdout
    assert json.loads(client.lindex("letta_requests", 0))["task_id"] == "t1"
    assert json.loads(on("dead", "drop", second["id"], "--json").stdout) == {"dropped": [second["id"]], "left": []}
    assert client.llen(f"{Q}:dead") == 1


@pytest.mark.integration
def test_dead_letters_are_counted_by_code_and_listed_by_user(on: Callable[..., Any], client: redis.Redis) -> None:
    bury(client, "t1", "t2", "t3")
    bury(client, "t4", code="internal")
    client.lpush(f"{Q}:dead", '{"code":"internal","user_id":"bo","task_id":"t5"}\n{}')
    assert json.loads(on("dead", "list", "--group", "--json", "--limit", "1").stdout) == {
        "total": 5,
        "by_code": {"malformed": 3, "internal": 2},
    }
    lines = on("dead", "list", "--group", "--user", "bo").stdout.splitlines()
    assert [line.split() for line in lines[:-1]] == [["CODE", "LETTERS"], ["internal", "1"]]
    assert lines[-1] == "1 of 5 dead letters"
    (letter,) = json.loads(on("dead", "list", "--user", "bo", "--json").stdout)["letters"]
    assert letter["task_id"] == "t5"


@pytest.mark.integration
def test_all_dead_letters_of_one_code_go_at_once(on: Callable[..., Any], client: redis.Redis) -> None:
    bury(client, "t1", "t2", "t3")
    bury(client, "t4", code="internal")
    assert "3 letters put back" in on("dead", "retry", "--all", "--code", "malformed").stdout
    pushed = [json.loads(task)["task_id"] for task in client.lrange("letta_requests", 0, -1)]
    assert pushed == ["t3", "t2", "t1"]
    assert "1 letter dropped" in on("dead", "drop", "--all").stdout


@pytest.mark.integration
@pytest.mark.parametrize("asked", ["turn_fate_unknown", "outcome_unknown"])
def test_letters_of_either_release_are_found_by_either_code(
    on: Callable[..., Any], client: redis.Redis, asked: str
) -> None:
    bury(client, "t1", code="turn_fate_unknown")
    bury(client, "t2", code="outcome_unknown")
    assert json.loads(on("dead", "list", "--group", "--code", asked, "--json").stdout)["by_code"] == {
        "outcome_unknown": 2
    }
    shown = json.loads(on("dead", "list", "--code", asked, "--json").stdout)["letters"]
    assert {letter["code"] for letter in shown} == {"outcome_unknown"}
    assert "outcome_unknown" in on("dead", "show", shown[-1]["id"]).stdout
    assert "2 letters dropped" in on("dead", "drop", "--all", "--code", asked).stdout


@pytest.mark.integration
def test_a_letter_that_this_release_cannot_read_is_named_and_stays(on: Callable[..., Any], client: redis.Redis) -> None:
    bury(client, "t1")
    client.lpush(f"{Q}:dead", b'{"v":2,"record":"entry","code":"newer_record","lane":"ada"}\nv2 {}\n{}')
    (newer, _) = json.loads(on("dead", "list", "--json").stdout)["letters"]
    result = on("dead", "retry", "--all", code=1)
    assert "1 letter put back" in result.stdout
    assert newer["id"] in result.stderr
    assert "another release" in result.stderr
    assert json.loads(on("dead", "retry", newer["id"], "--json", code=1).stdout)["left"] == [newer["id"]]
    assert json.loads(on("replay", "--dead", "1..", "--json", code=1).stdout)["skipped"] == 1
    assert client.llen(f"{Q}:dead") == 1


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["retry"], 2, "--all"),
        (["drop", "abcd", "--all"], 2, "--all"),
        (["drop", "abcdef", "--code", "x"], 2, "--code"),
        (["drop", "ab"], 2, "too short"),
        (["show", "abcdef"], 1, "no dead letter 'abcdef'"),
    ],
)
def test_invalid_choice_of_dead_letters_is_refused(
    on: Callable[..., Any], client: redis.Redis, arguments: list[str], code: int, named: str
) -> None:
    bury(client, "t1")
    assert named in on("dead", *arguments, code=code).stderr
    assert client.llen(f"{Q}:dead") == 1


@pytest.mark.integration
def test_pause_shows_in_the_status_and_resume_ends_it(on: Callable[..., Any], client: redis.Redis) -> None:
    on("pause", "--reason", "升级")
    client.lpush("letta_requests", "{}")
    shown = on("status", code=1).stdout
    assert re.search(r"paused +yes: bridges take no tasks and begin no turns; since 20\d\d-\S+ \S+ \(升级\)", shown)
    told = json.loads(on("status", "--json", code=1).stdout)
    assert (told["paused"], told["pause_reason"]) == ("all", "升级")
    assert told["paused_since"] > 1_700_000_000
    assert "升级" in on("resume").stdout
    assert "nothing was paused" in on("resume").stdout
    assert json.loads(on("status", "--json", code=1).stdout)["paused"] is None


@pytest.mark.integration
def test_pause_of_a_later_release_counts_as_paused(on: Callable[..., Any], client: redis.Redis) -> None:
    client.hset(f"{Q}:paused", mapping={"mode": "selective", "reason": "new"})
    assert "bridges take no tasks and begin no turns" in on("status", code=1).stdout
    assert "(new)" in on("resume").stdout


@pytest.mark.integration
def test_status_shows_no_raw_counters_to_people_and_all_to_programs(
    on: Callable[..., Any], client: redis.Redis
) -> None:
    client.hset(f"{Q}:counters", mapping={"taken": 7, "settled:letta": 7, "answers_refused": 1})
    shown = on("status", code=1).stdout
    assert not re.search("(?m)^taken|settled|answers_refused", shown)
    assert re.search("oldest task +-", shown)
    assert json.loads(on("status", "--json", code=1).stdout)["counters"]["settled:letta"] == 7


@pytest.mark.integration
def test_status_counts_turns_that_agents_did_not_answer(on: Callable[..., Any], client: redis.Redis) -> None:
    assert "no agent was asked in the last 10 minutes" in on("status", code=1).stdout
    tally = f"{Q}:tally:{client.time()[0] // 60}"
    client.hset(tally, mapping={"agent": 1, "memory": 3, "fallback": 3, "canned": 3, "cause:model_credentials": 3})
    assert "3 of 4 turns in the last 10 minutes (75%), mostly because the provider refuses the key" in (
        on("status", code=1).stdout
    )
    assert json.loads(on("status", "--json", code=1).stdout)["recent"]["causes"] == {"model_credentials": 3}


@pytest.mark.integration
def test_drain_of_an_idle_queue_is_done_at_once_and_closes_the_intake(on: Callable[..., Any]) -> None:
    assert json.loads(on("drain", "--json").stdout) == {"drained": True, "in_flight": 0, "lanes_waiting": 0}
    assert json.loads(on("status", "--json", code=1).stdout)["paused"] == "intake"


@pytest.mark.integration
def test_drain_waits_for_bridges_only_where_there_are_any(on: Callable[..., Any], client: redis.Redis) -> None:
    client.rpush(f"{Q}:ready", "ada")
    client.rpush(f"{Q}:lane:ada", '1 0 1\n{"user_id":"ada"}')
    assert "no bridge is alive" in on("drain", code=1).stderr
    client.zadd(f"{Q}:bridges", {"one": 2**52})
    assert "after 0.1 s" in on("drain", "--timeout", "0.1", code=3).stderr


@pytest.mark.integration
def test_drain_that_ends_in_vain_names_held_users_as_a_reason(on: Callable[..., Any], client: redis.Redis) -> None:
    client.rpush(f"{Q}:ready", "ada")
    client.rpush(f"{Q}:lane:ada", '1 0 1\n{"user_id":"ada"}')
    client.zadd(f"{Q}:bridges", {"one": 2**52})
    on("user", "hold", "ada")
    said = on("drain", "--timeout", "0.1", code=3).stderr
    assert "1 user held" in said
    assert "user release" in said


@pytest.mark.integration
def test_drain_returns_when_the_last_lane_is_empty(on: Callable[..., Any], client: redis.Redis) -> None:
    client.zadd(f"{Q}:bridges", {"one": 2**52})
    client.rpush(f"{Q}:ready", "ada")
    client.rpush(f"{Q}:lane:ada", '1 0 1\n{"user_id":"ada"}')

    def work_off() -> None:
        while not client.exists(f"{Q}:paused"):
            pass
        client.delete(f"{Q}:ready", f"{Q}:lane:ada")

    bridge = threading.Thread(target=work_off)
    bridge.start()
    assert "drained" in on("drain", "--timeout", "60").stdout
    bridge.join()


@pytest.mark.process
@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_drain_says_that_the_queue_stays_paused(redis_url: str, client: redis.Redis, number: int) -> None:
    client.zadd(f"{Q}:bridges", {"one": 2**52})
    client.rpush(f"{Q}:ready", "ada")
    client.rpush(f"{Q}:lane:ada", '1 0 1\n{"user_id":"ada"}')
    drain = subprocess.Popen(
        [sys.executable, "-m", "letta_bridge.main", "drain"],
        env={**os.environ, "REDIS_URL": redis_url},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509  # no threads yet
    )
    while not client.exists(f"{Q}:paused"):
        time.sleep(0.02)
    drain.send_signal(number)
    _, said = drain.communicate(timeout=60)
    (line,) = said.splitlines()
    assert "interrupted; the queue stays paused" in line
    assert "letta-bridge resume" in line
    assert drain.returncode == 130
    assert client.hget(f"{Q}:paused", "mode") == b"intake"


@pytest.mark.integration
def test_status_without_a_bridge_counts_tasks_and_names_the_remedy(on: Callable[..., Any], client: redis.Redis) -> None:
    client.lpush("letta_requests", "{}")
    shown = on("status", code=1).stdout
    assert re.search(r"trouble +no bridge serves the queue letta_requests, so 1 task waits; start one: letta-b", shown)


@pytest.mark.integration
def test_status_and_send_name_a_user_who_floods(on: Callable[..., Any], client: redis.Redis) -> None:
    client.zadd(f"{Q}:bridges", {"one": 2**52})
    client.rpush(f"{Q}:ready", "mallory")
    client.rpush(f"{Q}:lane:mallory", *(f"{number} 0 1\n{{}}" for number in range(500)))
    shown = on("status").stdout
    assert re.search(r"flood +500 tasks of the user mallory wait and are processed one at a time", shown)
    assert "limits.max_pending_per_user" in shown
    told = on("send", "me too", "--user", "mallory", "--wait", "0.1", code=3).stderr
    assert "500 tasks of this user wait" in told
    assert "tasks of this user" not in on("send", "hi", "--user", "ada", "--wait", "0.1", code=3).stderr


@pytest.mark.integration
def test_status_says_that_the_bridge_of_this_host_is_frozen(
    on: Callable[..., Any], client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.zadd(f"{Q}:bridges", {"one": 2**52})
    monkeypatch.setattr("letta_bridge.cli.local_bridge._READYZ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        monkeypatch.setenv("BRIDGE_HTTP_PORT", str(frozen.getsockname()[1]))
        shown = on("status", code=1).stdout
    assert "does not answer within 0.2 s, so it is frozen or overloaded and takes no tasks; see its log" in shown


@pytest.mark.integration
def test_send_says_that_the_queue_is_paused(on: Callable[..., Any]) -> None:
    on("pause", "--reason", "升级")
    told = on("send", "hi", "--wait", "0.1", code=3).stderr
    assert told.count("the queue is paused since ") == 2
    assert "(升级); 'letta-bridge resume' ends the pause" in told


EXPIRED = "model_credentials"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ({"source": "letta", "agent_id": "agent-1"}, " by the agent agent-1"),
        (
            {"source": "memory_python", "fallback_reason": "letta_rejected", "fallback_cause": "model_credentials"},
            f" by memory_python, not by the user's agent: {meaning(EXPIRED)}; {advice(EXPIRED)}",
        ),
        (
            {"source": "memory_python", "fallback_reason": "temporary", "canned": True},
            (
                " by memory_python with its canned sentence, because its model did not answer either, not by the "
                "user's "
                "agent: temporary"
            ),
        ),
    ],
)
def test_send_names_the_answering_service(
    on: Callable[..., Any], client: Any, reply: dict[str, Any], said: str
) -> None:
    client.zadd(f"{Q}:bridges", {"one": 2**52})

    def answer() -> None:
        _, task = client.brpop("letta_requests", timeout=60)
        task_id = json.loads(task)["task_id"]
        kept = {"task_id": task_id, "user_id": "ada", "response_text": "hello", **reply}
        client.set(f"{Q}:reply:ada:{task_id}", json.dumps(kept))

    bridge = threading.Thread(target=answer)
    bridge.start()
    result = on("send", "hi", "--user", "ada")
    bridge.join()
    assert result.stdout == "hello\n"
    assert result.stderr == f"letta-bridge: answered{said}\n"


@pytest.mark.integration
def test_lanes_lists_waiting_users(on: Callable[..., Any], client: redis.Redis) -> None:
    client.rpush(f"{Q}:ready", "小明", "bo")
    for user, taken in (("小明", 1_000), ("bo", 2_000)):
        client.lpush(f"{Q}:lane:{user}", f"1 0 {taken}\n{{}}", f"2 0 {taken + 1}\n{{}}")
    lines = on("lanes").stdout.splitlines()
    assert lines[0].split()[:3] == ["USER", "WAITING", "OLDEST"]
    assert lines[1].split()[:2] == ["小明", "2"]
    assert lines[-1] == "0 users in flight, 2 waiting for a bridge with free capacity"
    assert "1 more not shown" in on("lanes", "--limit", "1").stdout
    (lane,) = json.loads(on("lanes", "--limit", "1", "--json").stdout)["lanes"]
    assert (lane["lane"], lane["waiting"], lane["in_flight"]) == ("小明", 2, None)


@pytest.mark.integration
def test_replay_pushes_a_file_in_order_and_names_invalid_lines(
    on: Callable[..., Any], client: redis.Redis, tmp_path: Path
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"task_id":"1","content":"你好"}\n\nnonsense\n{"task_id":"2"}\n', encoding="utf-8")
    result = on("replay", str(file), code=1)
    assert "line 3 is skipped" in result.stderr
    assert "2 tasks pushed, 1 lines skipped" in result.stdout
    assert [json.loads(task)["task_id"] for task in client.lrange("letta_requests", 0, -1)] == ["2", "1"]
    assert json.loads(on("replay", str(file), "--from-line", "4", "--json").stdout)["pushed"] == 1


@pytest.mark.integration
def test_replay_takes_a_file_with_a_byte_order_mark_and_names_one_in_utf16(
    on: Callable[..., Any], client: redis.Redis, tmp_path: Path
) -> None:
    lines = '{"task_id":"1","user_id":"ada","content":"你好"}\r\n{"task_id":"2","content":"half \\ud83d"}\r\n'
    (tmp_path / "tasks.jsonl").write_bytes(lines.encode("utf-8-sig"))
    assert json.loads(on("replay", str(tmp_path / "tasks.jsonl"), "--json").stdout)["pushed"] == 2
    (tmp_path / "wide.jsonl").write_bytes(lines.encode("utf-16"))
    assert "is UTF-16; save it as UTF-8" in on("replay", str(tmp_path / "wide.jsonl"), code=2).stderr


def test_replay_reads_standard_input_at_a_rate(on: Callable[..., Any], client: redis.Redis) -> None:
    tasks = "".join(f'{{"task_id":"{number}"}}\n' for number in range(5))
    assert json.loads(on("replay", "-", "--rate", "1000", "--json", stdin=tasks).stdout)["pushed"] == 5
    assert client.llen("letta_requests") == 5


@pytest.mark.integration
def test_replay_takes_a_range_of_dead_letters(on: Callable[..., Any], client: redis.Redis) -> None:
    bury(client, "t1", "t2", "t3")
    assert json.loads(on("replay", "--dead", "2..", "--json").stdout)["pushed"] == 2
    assert [json.loads(task)["task_id"] for task in client.lrange("letta_requests", 0, -1)] == ["t3", "t2"]
    assert client.llen(f"{Q}:dead") == 1


def test_a_check_of_a_file_needs_no_redis(call: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"task_id":"1"}\n', encoding="utf-8")
    result = call("replay", str(file), "--check", REDIS_URL="redis://127.0.0.1:1")
    assert (result.exit_code, "1 task checked, none pushed" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "a file of tasks"),
        (["x", "--dead", "1..2"], "a file of tasks"),
        (["--dead", "5..2"], "5..2"),
        (["missing"], "missing"),
    ],
)
def test_replay_refuses_invalid_arguments(call: Callable[..., Any], arguments: list[Any], named: str) -> None:
    result = call("replay", *arguments)
    assert (result.exit_code, named in result.stderr) == (2, True)


def test_config_shows_the_source_of_each_setting(call: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"letta": {"timeout_seconds": 5}, "queue": {"lease_seconds": 7}}', encoding="utf-8"
    )
    (tmp_path / "config.local.json").write_text('{"queue": {"lease_seconds": 8}}', encoding="utf-8")
    shown = json.loads(call("config", "--json", LETTA_MODEL="openai/x").stdout)
    assert shown["letta.timeout_seconds"] == {"value": 5.0, "source": str(tmp_path / "config.json")}
    assert shown["queue.lease_seconds"] == {"value": 8.0, "source": str(tmp_path / "config.local.json")}
    assert shown["agents.model"] == {"value": "openai/x", "source": "LETTA_MODEL"}
    assert shown["letta.enabled"]["source"] == "default"
    assert "短期" not in call("config", "queue").stdout
    assert set(json.loads(call("config", "letta.breaker", "--json").stdout)) == {
        "letta.breaker.failures",
        "letta.breaker.open_seconds",
    }
    assert call("config", "nonsense").exit_code == 2


@pytest.mark.parametrize(
    ("asked", "shown", "told"),
    [
        ("queue.lease", {"queue.lease_seconds"}, "queue.lease is queue.lease_seconds now"),
        ("guards.user_tokens", {"limits.user_tokens.soft", "limits.user_tokens.hard"}, "guards.user_tokens.soft is"),
        ("LETTA_BRIDGE_QUEUE_LEASE", {"queue.lease_seconds"}, "LETTA_BRIDGE_QUEUE_LEASE is queue.lease_seconds now"),
        ("GUARD_BURST", {"limits.burst"}, "GUARD_BURST is limits.burst now"),
    ],
)
def test_config_shows_the_setting_that_a_former_name_means(call: Any, asked: Any, shown: Any, told: Any) -> None:
    result = call("config", asked, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout).keys() == shown
    assert result.stderr.startswith(f"letta-bridge: {told}")


def test_config_of_a_former_section_names_every_setting_that_moved(call: Any) -> None:
    result = call("config", "guards")
    assert "guards.max_lane is limits.max_pending_per_user now" in result.stderr
    assert "limits.max_pending_per_user" in result.stdout


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@example.org:6379/0",
        f"redis://user:{SECRET}@example.org",
        f"redis+sentinel://:{SECRET}@a:26379,b:26379/main",
        f"redis://example.org?password={SECRET}",
        f"redis://:x/{SECRET}@example.org",
        f"redis://{SECRET}@example.org",
    ],
)
def test_config_shows_no_secret(call: Callable[..., Any], tmp_path: Path, url: str) -> None:
    secret_file = tmp_path / "key"
    secret_file.write_text(SECRET)
    for arguments in (["config"], ["config", "--json"], ["config", "redis"]):
        result = call(
            *arguments,
            REDIS_URL=url,
            REDIS_PASSWORD=SECRET,
            LETTA_API_KEY_FILE=str(secret_file),
        )
        assert result.exit_code == 0
        assert SECRET not in result.output
    assert json.loads(call("config", "--json", LETTA_API_KEY_FILE=str(secret_file)).stdout)["letta.api_key"] == {
        "value": "***",
        "source": "LETTA_API_KEY_FILE",
    }


def test_the_schema_takes_the_shipped_configuration(call: Callable[..., Any], pytestconfig: pytest.Config) -> None:
    schema = json.loads(call("config", "--schema").stdout)
    shipped = json.loads((pytestconfig.rootpath / "config.json").read_text("utf-8"))
    assert shipped.keys() <= schema["properties"].keys()
    assert schema["additionalProperties"] is False
    letta = schema["$defs"]["LettaSettings"]
    assert shipped["letta"].keys() <= letta["properties"].keys()
    assert letta["properties"]["timeout_seconds"]["exclusiveMinimum"] == 0
    assert "env" not in letta["properties"]["timeout_seconds"]
    assert letta["properties"]["timeout"] == {
        "deprecated": True,
        "description": "it is now called letta.timeout_seconds",
    }
    assert schema["properties"]["guards"]["properties"]["user_tokens"]["properties"]["soft"]["deprecated"]


def test_config_and_doctor_name_former_settings_and_no_secret(call: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"queue": {"lease": 7}}', encoding="utf-8")
    sentence = "uses former names of settings, which the next release refuses: "
    environ = {"GUARD_BURST": "4", "REDIS_URL": f"redis://:{SECRET}@127.0.0.1:1"}
    result = call("config", "queue.lease_seconds", "--json", **environ)
    assert json.loads(result.stdout) == {
        "queue.lease_seconds": {"value": 7.0, "source": f"{tmp_path / 'config.json'}, as queue.lease"}
    }
    said = result.stderr.splitlines()
    assert said == [
        f"letta-bridge: {tmp_path / 'config.json'} {sentence}queue.lease is queue.lease_seconds now",
        f"letta-bridge: the environment {sentence}GUARD_BURST is LIMIT_BURST now",
    ]
    found = json.loads(call("doctor", "--json", **environ).stdout)["findings"]
    told = [finding["says"] for finding in found if finding["subject"] == "settings"]
    assert [f"letta-bridge: {says}" for says in told] == said
    assert SECRET not in result.output + json.dumps(found)


def test_doctor_fails_with_exit_code_1_and_a_line_for_each(call: Callable[..., Any], tmp_path: Path) -> None:
    environ = {"REDIS_URL": f"redis://:{SECRET}@127.0.0.1:1", "LETTA_API_URL": "http://127.0.0.1:1"}
    result = call("doctor", **environ)
    assert result.exit_code == 1
    assert [line.split()[:2] for line in result.stdout.splitlines()[:2]] == [["FAIL", "redis"], ["FAIL", "letta"]]
    assert SECRET not in result.output
    report = json.loads(call("doctor", "--json", **environ).stdout)
    assert report["ok"] is False
    assert {finding["subject"] for finding in report["findings"]} >= {"redis", "letta", "disk.write", "sessions"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["tail"],
        ["lanes"],
        ["dead", "list"],
        ["dead", "retry", "--all"],
        ["pause"],
        ["resume"],
        ["drain"],
        ["replay", "-"],
    ],
)
def test_every_command_reports_an_unreachable_redis(call: Callable[..., Any], arguments: list[str]) -> None:
    result = call(*arguments, REDIS_URL=f"redis://:{SECRET}@127.0.0.1:1")
    assert result.exit_code == 4
    assert result.stderr.startswith("letta-bridge: Redis at 127.0.0.1:")
    assert SECRET not in result.output


@pytest.mark.integration
def test_a_refused_password_is_distinguished(call: Callable[..., Any], redis_url: str, client: redis.Redis) -> None:
    client.acl_setuser("nobody", enabled=True, passwords=["+right"], keys=["*"], categories=["+@all"])
    try:
        result = call("lanes", REDIS_URL=redis_url, REDIS_USERNAME="nobody", REDIS_PASSWORD=SECRET)
    finally:
        client.acl_deluser("nobody")
    assert result.exit_code == 4
    assert "refuses the password" in result.stderr
    assert SECRET not in result.output


def test_the_shell_can_complete_commands(call: Callable[..., Any]) -> None:
    assert "--install-completion" in call("--help").stdout
