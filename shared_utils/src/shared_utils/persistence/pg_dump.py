"""PostgreSQL's own dump and restore of the schema, where its programs are installed."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path
from typing import Final

from psycopg.conninfo import make_conninfo

from shared_utils.persistence.database_config import DatabaseConfig
from shared_utils.persistence.dialects import Dialect, PostgreSQL
from shared_utils.persistence.errors import PersistenceError

_OURS: Final = ("--no-owner", "--no-privileges")
_VERSION: Final = re.compile(r"(\d+)(?:\.\d+)*\D*$")


async def can_dump(dialect: Dialect) -> bool:
    """Whether pg_dump is here, and new enough for this server."""
    if not isinstance(dialect, PostgreSQL) or not shutil.which("pg_dump") or not shutil.which("pg_restore"):
        return False
    _, output = await _run(["pg_dump", "--version"], {})
    found = _VERSION.search(output.strip().splitlines()[0]) if output.strip() else None
    return bool(found and int(found[1]) >= dialect.version[0])


async def dump(config: DatabaseConfig, file: Path) -> None:
    """Write the schema with all it holds to ``file``, in pg_dump's custom format.

    Raises:
        PersistenceError: pg_dump failed; its own words are in the text.
    """
    await _required(
        ["pg_dump", "--format=custom", *_OURS, f"--schema={config.schema_name}", f"--file={file}", _target(config)],
        config,
    )


async def restore(config: DatabaseConfig, file: Path) -> None:
    """Bring back what :func:`dump` wrote: all of it, or nothing. The schema must not exist yet.

    Raises:
        PersistenceError: pg_restore failed; its own words are in the text.
    """
    await _required(
        ["pg_restore", *_OURS, "--single-transaction", "--exit-on-error", _target(config), str(file)],
        config,
    )


async def _required(command: list[str], config: DatabaseConfig) -> None:
    password = config.parts.get("password")
    code, output = await _run(command, {"PGPASSWORD": password} if password else {})
    if code:
        raise PersistenceError(f"{command[0]} failed on the database {config.place}: {output.strip() or code}")


async def _run(command: list[str], variables: dict[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | variables,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")


def _target(config: DatabaseConfig) -> str:
    # Whoever may list processes sees their arguments; the environment of another user's process stays hidden.
    parts = {key: value for key, value in config.parts.items() if key != "password"}
    return f"--dbname={make_conninfo('', **parts)}"
