"""Checks the machine and environment before anything is started; each failure is one sentence."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from local_stack.errors import ConfigMissing, DatabaseUnusable, DataUnwritable
from local_stack.programs import environment
from shared_utils.observability.logs import redact_text
from shared_utils.private_files import make_folder

_LEAST_ROOM: Final = 100 * 2**20
"""Bytes: a new PostgreSQL cluster takes half of it, and what is said must fit as well."""
_INIT_TIMEOUT_SECONDS: Final = 120.0
_PROGRAM_PREFIX: Final = "letta-server: "


def make_data(data: Path) -> None:
    """Make the data directory where it is missing.

    Raises:
        DataUnwritable: it cannot be written, or its disk has no room.
    """
    try:
        make_folder(data)
        free = shutil.disk_usage(data).free
    except OSError as error:
        raise DataUnwritable(
            f"{data} cannot be written ({error.strerror}), so no data could be stored; grant your user write access, "
            "free disk space, or name another directory with --data."
        ) from None
    if free < _LEAST_ROOM:
        raise DataUnwritable(
            f"The disk of {data} is full ({free / 2**20:.0f} MB free, {_LEAST_ROOM / 2**20:.0f} MB needed), so no "
            "data could be stored; free disk space, or name a directory on another disk with --data."
        )


def require_config(variables: Mapping[str, str]) -> None:
    """Check that the named configuration file is there.

    Raises:
        ConfigMissing: it is not.
    """
    name = variables.get("LETTA_BRIDGE_CONFIG", "").strip()
    if name and not Path(name).is_file():
        raise ConfigMissing(
            f"LETTA_BRIDGE_CONFIG names the configuration file {name}, which does not exist; correct its name, create "
            "it, or unset LETTA_BRIDGE_CONFIG."
        )


def require_database(letta_server: Path, url: str) -> None:
    """Let Letta's own examination look at the operator's database; it changes nothing there.

    Raises:
        DatabaseUnusable: it cannot be reached, or Letta cannot run on it.
    """
    variables = environment(LETTA_PG_URI=url, LETTA_SERVER_WAIT="0", LETTA_REDIS_HOST=None, LETTA_REDIS_PORT=None)
    told = subprocess.run(  # noqa: S603  # the project's own program
        [str(letta_server), "check"],
        env=variables,
        cwd="/",  # a .env file elsewhere is not meant for it
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_INIT_TIMEOUT_SECONDS,
    )
    if told.returncode == 0:
        return
    said = [line.removeprefix(_PROGRAM_PREFIX) for line in told.stderr.splitlines() if line.startswith(_PROGRAM_PREFIX)]
    why = said[-1] if said else f"letta-server check ended with exit code {told.returncode}"
    why = why.replace("LETTA_PG_URI", "DATABASE_URL")
    raise DatabaseUnusable(redact_text(f"DATABASE_URL in the environment does not work: {why}"))
