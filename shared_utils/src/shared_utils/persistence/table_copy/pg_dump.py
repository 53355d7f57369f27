"""Converts a dump in pg_dump's custom format, as earlier releases wrote it, to the COPY text that backups hold now."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Final

from shared_utils.persistence.errors import DatabaseRefused, PersistenceError
from shared_utils.private_files import make_folder, opener

_COPY: Final = re.compile(rb"COPY (?:\S+\.)?\"?(?P<table>\w+)\"? \((?P<columns>[^)]*)\) FROM stdin;\n")
_END_OF_DATA: Final = b"\\.\n"
_MAX_LINE_BYTES: Final = 1 << 30
"""Maximum bytes of a line, which is a row."""


async def unpack(dump: Path, folder: Path) -> dict[str, Path]:
    """Write each table of a dump to a file in the format of ``table_copy``. Returns table → file.

    Args:
        dump: the dump file.
        folder: the folder to write to, created where it is missing.

    Raises:
        DatabaseRefused: pg_restore is not installed.
        PersistenceError: pg_restore cannot read the dump; the text quotes its message.
    """
    program = shutil.which("pg_restore")
    if program is None:
        raise DatabaseRefused(
            "the backup was made by pg_dump, but pg_restore is not installed; install PostgreSQL's client programs "
            "of the "
            "server's version, or make the backup again with this release"
        )
    make_folder(folder)
    process = await asyncio.create_subprocess_exec(
        *(program, "--data-only", "--file=-", str(dump)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_MAX_LINE_BYTES,
    )
    if process.stdout is None or process.stderr is None:
        raise AssertionError("both are pipes")
    complaints = asyncio.create_task(process.stderr.read())
    tables = await _split(process.stdout, folder)
    if await process.wait():
        said = (await complaints).decode(errors="replace").strip()
        raise PersistenceError(f"pg_restore cannot read {dump}: {said or process.returncode}")
    return tables


async def _split(text: AsyncIterator[bytes], folder: Path) -> dict[str, Path]:
    tables: dict[str, Path] = {}
    file: IO[bytes] | None = None
    try:
        async for line in text:
            if file is None:
                if found := _COPY.fullmatch(line):
                    table = found["table"].decode()
                    tables[table] = folder / f"{table}.copy"
                    file = open(tables[table], "xb", opener=opener)  # noqa: ASYNC230, SIM115  # closed below
                    columns = found["columns"].replace(b'"', b"").replace(b" ", b"")
                    file.write(columns + b"\n")
            elif line == _END_OF_DATA:
                file.close()
                file = None
            else:
                file.write(line)
    finally:
        if file is not None:
            file.close()
    return tables
