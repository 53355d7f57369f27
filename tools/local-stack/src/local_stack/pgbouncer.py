"""PgBouncer in front of a PostgreSQL or an openGauss double. Debian's package `pgbouncer` brings the program."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import psycopg

from local_stack import unprivileged
from local_stack.errors import MissingPart
from local_stack.ports import HOST, free_port
from local_stack.processes import Process

PoolMode = Literal["session", "transaction"]

_PROGRAM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin")


class PgBouncer(Process):
    """A PgBouncer that passes every database and the upstream's own user through.

    Args:
        data: its directory; made if missing.
        upstream: URL of the server behind it; its user and password are PgBouncer's clients' as well.
        mode: what `pool_mode` says.
        options: further settings of its configuration file, by name.
    """

    def __init__(
        self, data: Path, *, upstream: str, mode: PoolMode, options: Mapping[str, str] | None = None, name: str = ""
    ) -> None:
        self.port = free_port()
        self.mode = mode
        self._upstream = urlsplit(upstream)
        data.mkdir(parents=True, exist_ok=True)
        configuration, users = data / "pgbouncer.ini", data / "users.txt"
        users.write_text(f'"{self._user}" "{self._password}"\n', encoding="utf-8")
        settings = {
            "listen_addr": HOST,
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "pool_mode": mode,
            "auth_type": "scram-sha-256",
            "auth_file": str(users.resolve()),
            "default_pool_size": "20",
            "max_client_conn": "500",
            # A server that was away is tried again at once: 15 s by default.
            "server_login_retry": "0.2",
            **(options or {}),
        }
        host, port = self._upstream.hostname, self._upstream.port
        lines = ["[databases]", f"* = host={host} port={port}", "[pgbouncer]"]
        lines += [f"{key} = {value}" for key, value in settings.items()]
        configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for path in (configuration, users):
            path.chmod(0o600)
        account = _account(data, configuration, users)
        program = [_program(), configuration.resolve()]
        command = [str(word) for word in program]
        if account is not None:
            ids = [str(number) for number in account]
            command = [sys.executable, "-I", "-S", unprivileged.__file__, *ids, str(data.resolve()), *command]
        super().__init__(name or f"pgbouncer-{mode}", command, logs=data, ready=self._answers, cwd=Path("/"))

    def url(self, database: str | None = None) -> str:
        """The URL of a database through the pooler; by default of the one that the upstream's URL names."""
        login = f"{quote(self._user, safe='')}:{quote(self._password, safe='')}"
        path = self._upstream.path if database is None else f"/{quote(database)}"
        return urlunsplit(("postgresql", f"{login}@{HOST}:{self.port}", path, "", ""))

    @property
    def _user(self) -> str:
        return unquote(self._upstream.username or "")

    @property
    def _password(self) -> str:
        return unquote(self._upstream.password or "")

    def _answers(self) -> bool:
        # Its own console answers without the server behind it.
        try:
            with psycopg.connect(self.url("pgbouncer"), connect_timeout=2):
                return True
        except psycopg.OperationalError as error:
            return "not allowed" in str(error)  # the console lets administrators in only, and says so


def _account(*paths: Path) -> tuple[int, int] | None:
    """User and group for PgBouncer, which refuses to run as root; also the owner of these paths."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        for path in paths:
            os.chown(path, account.pw_uid, account.pw_gid)
        return account.pw_uid, account.pw_gid
    raise MissingPart("PgBouncer refuses to run as root, and the machine has no account 'postgres' or 'nobody' for it.")


def _program() -> str:
    found = shutil.which("pgbouncer", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_PROGRAM_FOLDERS)))
    if found is None:
        raise MissingPart("PgBouncer is not installed; on Debian and Ubuntu: apt-get install pgbouncer.")
    return found
