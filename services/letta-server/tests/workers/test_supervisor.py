"""Workers that are killed, frozen or hung, and a parent that ends; real processes, without Letta."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux"),
]

PROGRAM = Path(__file__).with_name("serving_program.py")
PATIENCE = 60.0


def wait_until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


class Running:
    """The program, and what it logs."""

    def __init__(self, folder: Path, workers: int, *changes: str, port: int = 0) -> None:
        self.folder = folder
        self.log = folder / "log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, PROGRAM, str(workers), str(port), *changes],
                cwd=folder,
                env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def started(self) -> str:
        """The address."""
        wait_until(lambda: self.events("started") or self.process.poll() is not None)
        return f"http://127.0.0.1:{self.events('started')[0]['port']}"

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    with contextlib.ExitStack() as held:

        def start(workers: int, *changes: str) -> Running:
            running = Running(tmp_path, workers, *changes)
            held.callback(running.process.wait)
            held.callback(running.process.kill)
            return running

        yield start


@pytest.fixture
def clients() -> Iterator[Callable[[str], httpx.Client]]:
    """Makes clients, each with a connection of its own."""
    with contextlib.ExitStack() as held:
        yield lambda url: held.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE))


def who(client: httpx.Client) -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/who").json()
    return answer


def test_connections_are_spread_evenly(run: Any, clients: Any) -> None:
    url = run(3).started()
    asked = [clients(url) for _ in range(9)]
    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(who, asked))
    assert Counter(answer["worker"] for answer in answers) == {1: 3, 2: 3, 3: 3}
    assert all(who(client)["worker"] == answer["worker"] for client, answer in zip(asked, answers, strict=True))


def test_connections_are_spread_evenly_right_after_others_were_closed(run: Any, clients: Any) -> None:
    url = run(2).started()
    for _ in range(3):
        asked = [httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE) for _ in range(6)]
        assert sorted(who(client)["worker"] for client in asked) == [1, 1, 1, 2, 2, 2]
        for client in asked:
            client.close()


def test_a_killed_worker_is_replaced_and_its_runs_are_ended_by_another(run: Any, clients: Any) -> None:
    running = run(2)
    url = running.started()
    first, second = clients(url), clients(url)
    assert who(first)["worker"] != who(second)["worker"]
    first.get("/begin/run-1")
    first.get("/begin/lost")
    second.get("/begin/run-2")
    victim = who(first)
    os.kill(victim["pid"], signal.SIGKILL)
    wait_until(lambda: sorted(second.get("/ended").json()[:2]) == ["lost", "run-1"])
    assert who(first)["pid"] != victim["pid"]
    wait_until(lambda: who(second)["serving"] == [2, 2])
    assert [(event["worker"], event["reason"], event["runs"]) for event in running.events("worker_ended")] == [
        (victim["worker"], "SIGKILL", 2)
    ]
    # A run that is not there is asked for some more times.
    wait_until(lambda: Counter(second.get("/ended").json() + clients(url).get("/ended").json())["lost"] >= 2)
    assert "run-2" not in second.get("/ended").json()


def test_a_connection_that_a_worker_has_not_taken_goes_to_another(run: Any, clients: Any) -> None:
    running = run(2)
    url = running.started()
    frozen = psutil.Process(who(clients(url))["pid"])
    frozen.suspend()
    asked = [clients(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(who, client) for client in asked]
        wait_until(lambda: sum(answer.done() for answer in answers) >= 2)  # of the other worker
        frozen.kill()
        assert frozen.pid not in {answer.result()["pid"] for answer in answers}


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_answered_before_the_end(
    run: Any, clients: Any, tmp_path: Path, name: signal.Signals
) -> None:
    running = run(2)
    url = running.started()
    workers = running.workers()
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(clients(url).get, "/slow") for _ in range(2)]
        wait_until(lambda: len(list(tmp_path.glob("slow-*"))) == 2)
        running.process.send_signal(name)
        refused = clients(url)
        wait_until(lambda: is_refused(refused))
        (tmp_path / "release").touch()
        assert [answer.result().status_code for answer in answers] == [200, 200]
    assert running.process.wait(PATIENCE) == 0
    assert psutil.wait_procs(workers, PATIENCE)[1] == []
    assert running.events("worker_ended") == []


def is_refused(client: httpx.Client) -> bool:
    try:
        client.get("/who")
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        return False
    return False


def test_workers_end_with_their_parent_after_their_requests(run: Any, clients: Any, tmp_path: Path) -> None:
    running = run(2)
    url = running.started()
    workers = running.workers()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(clients(url).get, "/slow")
        wait_until(lambda: list(tmp_path.glob("slow-*")))
        running.process.kill()
        running.process.wait(PATIENCE)
        wait_until(lambda: is_refused(clients(url)))
        (tmp_path / "release").touch()
        assert answer.result().status_code == 200
    assert psutil.wait_procs(workers, PATIENCE)[1] == []


@pytest.mark.parametrize("number", [1, 2])
def test_a_worker_that_cannot_start_ends_the_first_start(run: Any, tmp_path: Path, number: int) -> None:
    (tmp_path / f"refuse-{number}").touch()
    running = run(2)
    assert running.process.wait(PATIENCE) == 1
    assert running.events("started") == []
    assert running.events("worker_ended")[0]["reason"] == "exit code 3"


def test_a_successor_that_cannot_start_is_tried_again_while_the_other_serves(
    run: Any, clients: Any, tmp_path: Path
) -> None:
    running = run(2)
    url = running.started()
    client = clients(url)
    victim = next(one for one in running.workers() if one.pid != who(client)["pid"])
    number = 3 - who(client)["worker"]
    (tmp_path / f"refuse-{number}").touch()
    victim.kill()
    wait_until(lambda: len(running.events("worker_ended")) >= 3)
    assert who(client)["serving"] == [1, 2]
    assert [event["restart_seconds"] for event in running.events("worker_ended")[:3]] == [0.0, 1.0, 2.0]
    (tmp_path / f"refuse-{number}").unlink()
    wait_until(lambda: who(client)["serving"] == [2, 2])


def test_the_port_is_closed_while_no_worker_serves(run: Any, clients: Any, tmp_path: Path) -> None:
    running = run(2)
    url = running.started()
    for number in (1, 2):
        (tmp_path / f"refuse-{number}").touch()
    for worker in running.workers():
        worker.kill()
    wait_until(lambda: is_refused(clients(url)))
    for number in (1, 2):
        (tmp_path / f"refuse-{number}").unlink()
    wait_until(lambda: not is_refused(clients(url)))
    assert who(clients(url))["worker"] in {1, 2}


def test_a_hung_worker_is_killed(run: Any, clients: Any) -> None:
    running = run(2, "_HUNG_TICKS=4", "_TICK_SECONDS=0.5")
    url = running.started()
    first = clients(url)
    victim = who(first)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(first.get, "/hang")
        wait_until(lambda: running.events("worker_ended"))
        assert isinstance(hanging.exception(), httpx.TransportError)
    assert [event["pid"] for event in running.events("worker_hung")] == [victim["pid"]]
    wait_until(lambda: who(clients(url))["serving"] == [2, 2])


def test_a_frozen_server_is_as_before_when_it_goes_on(run: Any, clients: Any) -> None:
    running = run(2, "_HUNG_TICKS=4", "_TICK_SECONDS=0.5")
    url = running.started()
    workers = running.workers()
    parent = psutil.Process(running.process.pid)
    for process in (parent, *workers):
        process.suspend()
    threading.Event().wait(2.5)  # longer than a worker may be silent
    parent.resume()  # first, so that its clock has gone on when nobody has spoken yet
    for worker in workers:
        worker.resume()
    wait_until(lambda: who(clients(url))["serving"] == [2, 2])
    assert running.workers() == workers
    assert running.events("worker_hung") == []
