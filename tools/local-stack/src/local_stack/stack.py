"""The whole stack on this machine: its parts and the order of their start."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from local_stack import environment_file, preconditions
from local_stack.errors import DataInUse
from local_stack.letta import Letta
from local_stack.models import ModelAccess, ScriptedModel, operators_model
from local_stack.ports import choose_port, is_free
from local_stack.postgres import Postgres
from local_stack.processes import POLL_SECONDS, Process
from local_stack.programs import CHECKOUT, CONFIG, environment, letta_program, program
from local_stack.queue_owner import Queue
from local_stack.services import Bridge, Memory
from local_stack.valkey import Valkey
from shared_utils.observability.logs import redact_text
from shared_utils.private_files import replacing


@dataclass(frozen=True)
class Ports:
    """Where the parts listen; 0 picks a free port."""

    redis: int = 0
    letta: int = 0
    bridge: int = 0
    memory: int = 0
    model: int = 0
    postgres: int = 0


class Stack:
    """Valkey, PostgreSQL, a model, Letta, memory-python and the bridge.

    REDIS_URL, DATABASE_URL and OPENAI_API_KEY / OPENAI_BASE_URL in `variables` name parts that run elsewhere; those
    are used instead of started. The attributes below are there once `start` has returned.

    Args:
        data: directory of everything that survives a restart; one stack at a time.
        ports: free ones where not given.
        variables: this process's environment where not given.
        short_term: messages memory-python keeps of a user; its own default where not given.
        announce: told each step in one line.
        take_queue: serve the queue in the operator's Redis even if another stack has served it.
    """

    redis_url: str
    postgres_url: str
    """Letta's database. The bridge's is another one on the same server."""
    model: ModelAccess
    letta: Letta
    memory: Memory
    bridge: Bridge

    def __init__(
        self,
        data: Path,
        ports: Ports | None = None,
        *,
        variables: Mapping[str, str] | None = None,
        short_term: int | None = None,
        announce: Callable[[str], None] = lambda _line: None,
        take_queue: bool = False,
    ) -> None:
        self.data = data
        self.logs = data / "logs"
        self.processes: list[Process] = []
        """What was started, in that order."""
        self._ports = ports or Ports()
        self._variables = os.environ if variables is None else variables
        self._short_term = short_term
        self._announce = announce
        self._take_queue = take_queue
        self._held = ExitStack()
        self._held_data = False

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def ready_line(self) -> str:
        """The one line a program that starts the stack waits for."""
        return (
            f"ready redis={self.redis_url} letta={self.letta.url} bridge={self.bridge.url} memory={self.memory.url} "
            f"model={self.model.url} postgres={self.postgres_url}"
        )

    def start(self) -> None:
        """Starts everything and waits until it serves.

        Raises:
            StackError: a port is taken, the data directory is in use, a program is missing or did not start. What
                was started before runs on until `stop`.
        """
        preconditions.make_data(self.data)
        preconditions.require_config(self._variables)
        self._lock_data()
        self._look_at_operators_stores()
        ports = self._free_ports()

        locks = Valkey(self.data / "letta-locks", durable=False, logs=self.logs, name="valkey-letta-locks")
        redis = self._redis(ports.redis)
        model = self._model(ports.model)
        database = self._database(ports.postgres)
        self._run(*(part for part in (locks, redis, model, database) if part))

        if database:
            self.postgres_url = database.url("letta")
        self.letta = Letta(
            self.data / "letta",
            # Letta's connection pool insists on TLS unless told otherwise.
            database_url=f"{self.postgres_url}?sslmode=disable" if database else self.postgres_url,
            locks=(locks.host, locks.port),
            model=self.model,
            port=ports.letta,
            logs=self.logs,
        )
        long_term: dict[str, str | None] = {
            "DATABASE_URL": database.url("letta_bridge") if database else self.postgres_url,
            "VECTORS_ENABLED": "true",
            **self.model.embedding_variables,
            **{name: value for name, value in self._variables.items() if name == "LETTA_BRIDGE_CONFIG"},
        }
        # Everything shares this machine; what is quick in production may take a while here.
        short_term: dict[str, str | None] = {"LETTA_BRIDGE_MEMORY_RECALL_TIMEOUT_SECONDS": "3"}
        if self._short_term is not None:
            short_term["LETTA_BRIDGE_MEMORY_MAX_MEMORY_SIZE"] = str(self._short_term)
        self.memory = Memory(
            logs=self.logs,
            redis_url=self.redis_url,
            model=self.model,
            port=ports.memory,
            variables=long_term | short_term,
        )
        self.bridge = Bridge(
            self.data / "bridge",
            redis_url=self.redis_url,
            letta=self.letta,
            port=ports.bridge,
            logs=self.logs,
            variables=long_term | {"MEMORY_PYTHON_URL": self.memory.url},
        )
        with replacing(self.data / environment_file.ENVIRONMENT_FILE) as file:
            file.write(environment_file.written(self.bridge.variables))
        # Side by side: Letta takes ten seconds or more, and the others do without it.
        self._run(self.letta, self.memory, self.bridge)
        if self._variables.get("REDIS_URL"):
            self._operators_queue().note(self.data)

    def memories(self) -> int:
        """How many long-term memories there are: turns and passages with a vector."""
        command = [str(program("letta-bridge")), "vectors", "stats", "--json"]
        told = subprocess.run(  # noqa: S603  # the project's own program
            command, env=self.bridge.environment, cwd=CHECKOUT, capture_output=True, text=True, check=False
        )
        return int(json.loads(told.stdout)["passages"]) if told.returncode == 0 else 0

    def leaves_letta_alone(self) -> bool:
        """Whether the bridge asks no Letta server at present, because they failed a moment ago."""
        with urllib.request.urlopen(f"{self.bridge.url}/health", timeout=5.0) as answer:  # noqa: S310  # http, our own
            return "open" in json.load(answer)["breakers"].values()

    @contextmanager
    def slow_model(self, pace_ms: float) -> Iterator[None]:
        """In the block, the scripted model pauses after each token of a streamed answer; others are left alone."""
        scripted = next((process for process in self.processes if isinstance(process, ScriptedModel)), None)
        if scripted is not None:
            scripted.set_pace(pace_ms)
        try:
            yield
        finally:
            if scripted is not None:
                scripted.set_pace(0)

    def stop(self) -> None:
        """Ends everything, last started first."""
        while self.processes:
            process = self.processes[-1]
            if process.running:
                self._announce(f"stopping {process.name}")
            process.stop()
            self.processes.pop()
        if self._held_data:
            (self.data / environment_file.ENVIRONMENT_FILE).unlink(missing_ok=True)
            self._held_data = False
        self._held.close()

    def _look_at_operators_stores(self) -> None:
        """Say what of the operator's is used, and refuse a queue that is another stack's."""
        for name, what in (("REDIS_URL", "Redis"), ("DATABASE_URL", "PostgreSQL")):
            if url := self._variables.get(name):
                self._announce(f"{name} is set: using {redact_text(url)}, and starting no {what}")
        if self._variables.get("REDIS_URL") and not self._take_queue:
            self._operators_queue().refuse_another(self.data)
        if url := self._variables.get("DATABASE_URL"):
            preconditions.require_database(letta_program(), url)

    def _operators_queue(self) -> Queue:
        config = self._variables.get("LETTA_BRIDGE_CONFIG") or str(CONFIG)
        variables = environment(REDIS_URL=self._variables["REDIS_URL"], LETTA_BRIDGE_CONFIG=config)
        return Queue.of(program("letta-bridge"), variables)

    def _redis(self, port: int) -> Valkey | None:
        if url := self._variables.get("REDIS_URL"):
            self.redis_url = url
            return None
        valkey = Valkey(self.data / "valkey", port=port, logs=self.logs)
        self.redis_url = valkey.url
        return valkey

    def _model(self, port: int) -> ScriptedModel | None:
        if access := operators_model(self._variables):
            self.model = access
            return None
        scripted = ScriptedModel(logs=self.logs, port=port)
        self.model = scripted.access
        return scripted

    def _database(self, port: int) -> Postgres | None:
        if url := self._variables.get("DATABASE_URL"):
            self.postgres_url = url
            return None
        return Postgres(self.data / "postgres", port=port, logs=self.logs)

    def _run(self, *processes: Process) -> None:
        began = time.monotonic()
        for process in processes:
            self._announce(f"starting {process.name}")
            self.processes.append(process)
            process.start()
        waiting = list(processes)
        while waiting:
            for process in [process for process in waiting if process.is_ready()]:
                waiting.remove(process)
                self._announce(f"{process.name} is ready after {time.monotonic() - began:.1f} s")
            time.sleep(POLL_SECONDS)

    def _free_ports(self) -> Ports:
        elsewhere = {
            "redis": bool(self._variables.get("REDIS_URL")),
            "postgres": bool(self._variables.get("DATABASE_URL")),
            "model": operators_model(self._variables) is not None,
        }
        ports = Ports(
            **{
                part: 0 if elsewhere.get(part) else choose_port(wanted, f"--{part}-port")
                for part, wanted in asdict(self._ports).items()
            }
        )
        return replace(ports, model=self._lasting_model_port(ports.model)) if ports.model else ports

    def _lasting_model_port(self, port: int) -> int:
        """`port`, or the one of the start before where the caller does not mind.

        Letta writes the model's address into each agent when it makes it, and never looks again.
        """
        note = self.data / "model-port"
        before = int(note.read_text()) if note.exists() else port
        if before != port:
            if self._ports.model == 0 and is_free(before):
                return before
            self._announce(
                f"The scripted model was on port {before} before and is on {port} now: agents made before cannot "
                f"reach it; stop, free port {before} and use --model-port {before} to have them back."
            )
        note.write_text(str(port))
        return port

    def _lock_data(self) -> None:
        file = self._held.enter_context((self.data / environment_file.LOCK_FILE).open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataInUse(
                f"Another stack runs on {self.data}; stop it, or name another directory with --data."
            ) from error
        self._held_data = True
