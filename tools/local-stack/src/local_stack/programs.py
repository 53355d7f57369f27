"""Paths of the project's programs, and their environment."""

from __future__ import annotations

import http.client
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from local_stack.errors import MissingPart

CHECKOUT = Path(__file__).resolve().parents[4]
LETTA_PROGRAM = CHECKOUT / "services" / "letta-server" / ".venv" / "bin" / "letta-server"
CONFIG = CHECKOUT / "config.json"

# Compiled bytecode saves Letta six seconds of start.
_UNWANTED_VARIABLES = ("PYTHONDONTWRITEBYTECODE",)
_PROGRAM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin")
"""Where packages put servers, and where a user's PATH does not lead."""


def program(name: str) -> Path:
    """A console script of the workspace.

    Raises:
        MissingPart: it is not installed.
    """
    return _installed(Path(sys.executable).parent / name)


def letta_program() -> Path:
    """Letta lives in a virtual environment of its own.

    Raises:
        MissingPart: it is not installed.
    """
    return _installed(LETTA_PROGRAM)


def debian_program(name: str, *, package: str) -> str:
    """A program that no Python package has; `./run test` installs it where it may.

    Raises:
        MissingPart: it is not installed.
    """
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_PROGRAM_FOLDERS)))
    if found is None:
        raise MissingPart(f"{name} is not installed; on Debian and Ubuntu: apt-get install {package}.")
    return found


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment with `changes`; None takes a variable away."""
    result = {name: value for name, value in os.environ.items() if name not in _UNWANTED_VARIABLES}
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = value
    return result


def answers(url: str) -> Callable[[], bool]:
    """A check that `GET url` says 200."""
    parts = urlsplit(url)

    def check() -> bool:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=2.0)
        try:
            connection.request("GET", parts.path or "/")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return check


def _installed(path: Path) -> Path:
    if not path.exists():
        raise MissingPart(f"{path} is missing; './run sync' installs everything.")
    return path
