"""^C ends a command, also where the cancellation is swallowed on its way; the command says how far it came."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from letta_bridge.cli.interruption import run_command
from letta_bridge.main import app
from shared_utils import task_end

Q = "{letta_requests}"
_ENDED: list[Any] = []


async def waiting(number: signal.Signals, swallows: int) -> None:
    os.kill(os.getpid(), number)
    try:
        while True:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                swallows -= 1
                if swallows < 0:
                    raise
    finally:
        _ENDED.append(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("swallows", [0, 2])
def test_signal_ends_the_work_although_a_cancellation_is_swallowed(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, swallows: int
) -> None:
    monkeypatch.setattr(task_end, "_CANCEL_AGAIN_SECONDS", 0.01)
    _ENDED.clear()
    with pytest.raises(KeyboardInterrupt):
        run_command(waiting(number, swallows), signals=(signal.SIGINT, signal.SIGTERM))
    assert [number] == _ENDED
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_result_and_error_of_the_work_are_those_of_the_command() -> None:
    async def done() -> int:
        return 5

    async def failed() -> None:
        raise LookupError

    assert run_command(done()) == 5
    with pytest.raises(LookupError):
        run_command(failed())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["dead", "retry", "--all"], "0 letters put back into the queue, and perhaps one more; the others are still"),
        (["dead", "drop", "--all"], "0 letters dropped, and perhaps one more; the others are still there"),
        (["user", "drop", "ada", "--yes"], "0 waiting tasks dropped; the others still wait"),
        (["user", "erase", "ada", "--yes"], "the rest is still there"),
        (["user", "export", "ada", "--to", "new"], "the export in new is not complete"),
        (["replay", "tasks"], "0 tasks are surely pushed; go on with --from-line 1"),
        (["replay", "--dead", "1.."], "0 letters pushed, and perhaps one more; the others are still there"),
        (["sessions", "migrate", "--to", "database"], "0 sessions copied; those stay"),
        (["sessions", "duplicates", "--remove-empty"], "0 empty agents deleted"),
        (["vectors", "sync"], "0 vectors stored, 0 removed"),
        (["vectors", "reembed"], "0 passages embedded; the previous model stays in use"),
        (["vectors", "import", "--from", "sqlite:///x"], "0 passages stored"),
        (["vectors", "reindex"], "an index that was not complete is not used"),
        (["backup", "new"], "the backup in new is not complete and cannot be restored"),
        (["restore", "."], "the restore is not complete; repeat the command"),
        (["migrate"], "steps that were complete stay"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_every_interrupted_command_that_changes_much_says_how_far_it_came(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: Any, told: Any
) -> None:
    def interrupted(work: Any, **_options: Any) -> None:
        work.close()
        raise KeyboardInterrupt

    for name in ("common", "user", "state", "vector_store", "backup"):
        monkeypatch.setattr(f"letta_bridge.cli.{name}.run_command", interrupted)
    for name in ("user", "sessions", "vectors", "backup"):
        monkeypatch.setattr(f"letta_bridge.cli.{name}.refuse_other_agents", lambda *_, **_options: None)
    monkeypatch.setattr("letta_bridge.cli.user.choice_record", lambda *_: {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text('{"vectors": {"enabled": true}}', encoding="utf-8")
    (tmp_path / "tasks").touch()
    environ = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "DATA_DIR": str(tmp_path), "LETTA_BRIDGE_CONFIG": None}
    result = CliRunner().invoke(app, arguments, env=environ)
    assert result.exit_code == 130
    (line,) = result.stderr.splitlines()
    assert line.startswith("letta-bridge: interrupted; ")
    assert told in line


@pytest.fixture
def started(redis_url: str) -> Any:
    """A command in a process of its own, which ^C reaches although whoever runs the tests may ignore it."""
    commands = []

    def start(*arguments: Any, **options: Any) -> Any:
        command = subprocess.Popen(
            [sys.executable, "-m", "letta_bridge.main", *arguments],
            env={**os.environ, "REDIS_URL": redis_url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509  # no threads
            **options,
        )
        commands.append(command)
        return command

    yield start
    for command in commands:
        command.kill()
        command.communicate()


def interrupt(command: Any, begun: Any) -> Any:
    """Interrupt it once it has begun; standard output and the one line on standard error."""
    deadline = time.monotonic() + 60
    while not begun():
        assert command.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    command.send_signal(signal.SIGINT)
    output, said = command.communicate(timeout=60)
    assert command.returncode == 130
    (line,) = said.splitlines()
    return output, line


@pytest.mark.process
@pytest.mark.integration
@pytest.mark.parametrize("as_json", [False, True])
def test_interrupted_retry_counts_the_letters_it_put_back(redis_url: str, started: Any, as_json: bool) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.rpush(f"{Q}:dead", *(f'{{"code":"x"}}\n{{"task_id":"t{number}"}}' for number in range(50_000)))
        command = started("dead", "retry", "--all", *(["--json"] if as_json else []))
        output, line = interrupt(command, lambda: client.llen("letta_requests") > 20)
        told = re.search(r"interrupted; (\d+) letters put back into the queue, and perhaps one more", line)
        assert told
        assert client.llen("letta_requests") - int(told[1]) in {0, 1}
        assert client.llen(f"{Q}:dead") + client.llen("letta_requests") == 50_000
        if as_json:
            record = json.loads(output)
            assert (len(record["retried"]), record["interrupted"]) == (int(told[1]), True)


@pytest.mark.process
@pytest.mark.integration
def test_interrupted_drop_has_answered_every_task_it_dropped(redis_url: str, started: Any) -> None:
    with redis.Redis.from_url(redis_url) as client:
        tasks = [json.dumps({"task_id": f"t{number}", "user_id": "ada", "content": "hi"}) for number in range(20_000)]
        client.rpush(f"{Q}:lane:ada", *(f"{number} 0 1\n{task}" for number, task in enumerate(tasks)))
        client.rpush(f"{Q}:ready", "ada")
        command = started("user", "drop", "ada", "--yes")
        _, line = interrupt(command, lambda: client.llen(f"{Q}:lane:ada") < 20_000)
        told = re.search(r"interrupted; (\d+) waiting tasks dropped; the others still wait", line)
        assert told
        dropped = int(told[1])
        assert 0 < dropped < 20_000
        assert client.llen(f"{Q}:lane:ada") == 20_000 - dropped
        assert client.xlen(f"{Q}:replies") == dropped


@pytest.mark.process
@pytest.mark.integration
def test_interrupted_replay_names_the_line_to_go_on_with(redis_url: str, started: Any, tmp_path: Path) -> None:
    file = tmp_path / "tasks"
    file.write_text("".join(f'{{"task_id":"t{n}","user_id":"ada","content":"hi"}}\n' for n in range(100)))
    with redis.Redis.from_url(redis_url) as client:
        command = started("replay", str(file), "--rate", "20")
        _, line = interrupt(command, lambda: client.llen("letta_requests") > 1)
        pushed = client.llen("letta_requests")
    told = re.search(
        r"interrupted; (\d+) tasks? (?:is|are) surely pushed; (?:go on with --from-line (\d+)|the last 1, up to line)",
        line,
    )
    assert told
    if told[2]:
        assert (int(told[1]), int(told[2])) == (pushed, pushed + 1)
    else:
        assert pushed - int(told[1]) in {0, 1}


@pytest.mark.process
@pytest.mark.integration
def test_interrupted_stream_says_what_was_heard(started: Any, redis_url: str) -> None:
    """^C interrupts the reply, not only the command: the agent learns what was on the screen."""
    command = started("send", "count", "--user", "ada", "--stream")
    with redis.Redis.from_url(redis_url) as client:
        task = json.loads(taken(client, "letta_requests"))
        ids = {"task_id": task["task_id"], "user_id": "ada"}

        def say(seq: int, kind: str, **fields: Any) -> None:
            event = json.dumps({"v": 1, "seq": seq, **ids, "attempt": 1, "type": kind, **fields})
            client.xadd(f"{Q}:stream:ada:{task['task_id']}", {"event": event, "by": "1 1"}, id=f"{seq}-1")
            client.publish(f"task_stream:{task['task_id']}", event)

        say(0, "started", source="letta")
        say(1, "sentence", text="One. ", speech="One.")
        assert command.stdout.read(5) == "One. "
        command.send_signal(signal.SIGINT)
        heard = {"seq": 1, "characters": 0}
        assert json.loads(taken(client, "letta_control")) == {"type": "interrupt", **ids, "heard": heard}
        say(2, "interrupted", heard=heard)
        reply = {**ids, "response_text": "One. ", "status": "interrupted", "heard_text": "One.", "source": "letta"}
        say(3, "end", reply=reply)
    output, told = command.communicate(timeout=60)
    assert (command.returncode, output) == (130, "\n")
    assert "another Ctrl-C ends this command at once" in told
    assert told.splitlines()[-1].endswith("the agent learns that of its answer only this was heard: One.")


def taken(client: Any, key: str) -> Any:
    found = client.brpop([key], timeout=60)
    assert found is not None
    return found[1]
