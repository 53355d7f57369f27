from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from local_stack.errors import StartFailed
from local_stack.processes import Process
from local_stack.reaper import Reaper

Script = Callable[..., Process]


def gone(pid: int, timeout: float = 10.0) -> bool:
    """Whether the process ends (or is only waiting to be reaped) in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{pid}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_starts_waits_and_stops(script: Script, serve_forever: str, tmp_path: Path) -> None:
    process = script(serve_forever)
    process.start()
    process.wait_ready()
    assert process.running
    assert (tmp_path / "ready").exists()
    process.stop()
    assert process.returncode == -signal.SIGTERM


def test_a_child_that_ends_while_starting_fails_at_once_with_its_last_words(script: Script) -> None:
    process = script("print('no such database'); sys.exit(3)")
    process.start()
    with pytest.raises(StartFailed, match=r"exit code 3") as caught:
        process.wait_ready()
    assert "no such database" in str(caught.value)
    assert str(process.log) in str(caught.value)


def test_a_child_that_says_why_it_ends_is_quoted_in_one_line(script: Script) -> None:
    process = script("sys.exit(f'{pathlib.Path(sys.executable).name}: no such file; correct its name')")
    process.start()
    with pytest.raises(StartFailed) as caught:
        process.wait_ready()
    expected = f"script-0 ended with exit code 1: no such file; correct its name (its log: {process.log})"
    assert str(caught.value) == expected


def test_ended_child_is_detected_even_if_another_process_answers(script: Script) -> None:
    process: Process = script("sys.exit(1)", ready=lambda: process.returncode is not None)
    process.start()
    with pytest.raises(StartFailed):
        process.wait_ready()


def test_a_child_that_never_becomes_ready_is_killed(script: Script) -> None:
    process = script("time.sleep(60)", start_timeout=0.1)
    process.start()
    with pytest.raises(StartFailed, match=r"not ready after 0\.1 s"):
        process.wait_ready()
    assert not process.running


def test_process_that_ignores_sigterm_is_killed(script: Script, serve_forever: str) -> None:
    process = script("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + serve_forever)
    process.start()
    process.wait_ready()
    process.stop()
    assert process.returncode == -signal.SIGKILL


def test_a_paused_child_can_be_stopped(script: Script, serve_forever: str) -> None:
    process = script(serve_forever)
    process.start()
    process.wait_ready()
    process.pause()
    process.stop()
    assert process.returncode == -signal.SIGTERM


def test_a_paused_child_makes_no_progress_until_resumed(script: Script, tmp_path: Path) -> None:
    process = script(
        """
        pathlib.Path("ready").touch()
        while True:
            pathlib.Path("beat").unlink(missing_ok=True)
            time.sleep(0.01)
        """
    )
    process.start()
    process.wait_ready()
    process.pause()
    stat = Path(f"/proc/{process.pid}/stat")
    if stat.exists():
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)
    beat = tmp_path / "beat"
    beat.touch()
    process.resume()
    deadline = time.monotonic() + 10
    while beat.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not beat.exists()


@pytest.mark.process
def test_kill_takes_grandchildren_along(script: Script, tmp_path: Path) -> None:
    process = script(
        """
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        pathlib.Path("child").write_text(str(child.pid))
        pathlib.Path("ready").touch()
        time.sleep(60)
        """
    )
    process.start()
    process.wait_ready()
    process.kill()
    assert gone(int((tmp_path / "child").read_text()))


def test_restart_runs_the_same_command_and_its_tail_is_of_the_last_start(
    script: Script, serve_forever: str, tmp_path: Path
) -> None:
    process = script("print('hello', flush=True)\n" + serve_forever)
    process.start()
    process.wait_ready()
    first = process.pid
    process.stop()
    (tmp_path / "ready").unlink()
    process.restart()
    assert process.pid != first
    assert process.running
    process.stop()
    assert process.log_tail() == "hello"
    assert process.log.read_text() == "hello\nhello\n"


def test_start_twice_is_one_child(script: Script, serve_forever: str) -> None:
    process = script(serve_forever)
    process.start()
    first = process.pid
    process.start()
    assert process.pid == first


def test_stop_and_kill_before_a_start_do_nothing(script: Script, serve_forever: str) -> None:
    process = script(serve_forever)
    process.stop()
    process.kill()
    assert process.pid is None
    assert process.returncode is None


@pytest.mark.process
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_children_die_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import pathlib, sys, time\n"
        "from local_stack.processes import Process\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "child = Process('child', ['sleep', '60'], logs=here)\n"
        "child.start()\n"
        "child.pause()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, parent, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        process.send_signal(how)
    assert gone(child)


@pytest.mark.process
def test_descendants_of_a_dead_process_end_before_its_restart(script: Script, tmp_path: Path) -> None:
    process = script(
        """
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        pathlib.Path("ready").write_text(str(child.pid))
        """,
    )
    process.start()
    while process.running:
        time.sleep(0.01)
    left = int((tmp_path / "ready").read_text())
    os.kill(left, 0)
    process.start()
    assert gone(left)


@pytest.mark.process
def test_children_are_guarded_again_when_the_reaper_is_killed(tmp_path: Path) -> None:
    reaper = Reaper()
    with (
        subprocess.Popen(["sleep", "60"], start_new_session=True) as first,
        subprocess.Popen(["sleep", "60"], start_new_session=True) as second,
    ):
        reaper.guard(first.pid)
        assert reaper._process
        reaper._process.kill()
        reaper._process.wait()
        reaper.guard(second.pid)
        reaper._close()
        assert [first.wait(10), second.wait(10)] == [-signal.SIGKILL] * 2
