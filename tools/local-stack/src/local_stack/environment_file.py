"""The running stack's environment, for commands in another shell: `env` in its data directory.

`up` writes the file and removes it; the lock beside it, which ends with its process, says whether the stack still runs.
Only the standard library is imported: every `./run bridge` passes through here.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

DATA_FOLDER: Final = Path(__file__).resolve().parents[4] / "data" / "local"
"""The stack's data directory where nobody names another."""
DATA_VARIABLE: Final = "STACK_DATA"
LOCK_FILE: Final = "lock"
ENVIRONMENT_FILE: Final = "env"
_PUBLISHED_VARIABLES: Final = ("REDIS_URL", "DATABASE_URL", "LETTA_API_URL", "LETTA_REQUESTS")
"""Variables that say which installation a command is about: one set to something else means another one."""


def written(variables: Mapping[str, str]) -> bytes:
    """The content of the file: `NAME=value` lines, without quotes. It cannot represent values of several lines."""
    lines = [f"{name}={value.strip()}\n" for name, value in variables.items() if len(value.strip().splitlines()) <= 1]
    return "".join(lines).encode(errors="surrogateescape")


def running(data: Path) -> dict[str, str] | None:
    """The variables of the stack that runs on this data directory; None if none runs."""
    try:
        with (data / LOCK_FILE).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    except OSError:
        return None
    else:
        return None  # whoever held the lock has ended
    try:
        lines = (data / ENVIRONMENT_FILE).read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None  # it has not come so far
    return {name: value for name, sign, value in (line.partition("=") for line in lines) if sign}


def merged(own: Mapping[str, str], stack: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """The environment of a command.

    Returns:
        The caller's variables with the stack's, and None; or the caller's alone, and the name of the variable in it
        that names another installation.
    """
    for name in _PUBLISHED_VARIABLES:
        if name in own and own[name].strip() != stack.get(name, own[name].strip()):
            return dict(own), name
    return {**own, **stack}, None


def main() -> None:
    """Run letta-bridge with the environment of the stack that runs here, if one does."""
    own = dict(os.environ)
    data = Path(own.get(DATA_VARIABLE) or DATA_FOLDER)
    stack = running(data)
    if stack is None and own.get(DATA_VARIABLE):
        sys.exit(f"run: no stack runs on {data}, which {DATA_VARIABLE} names; start one, or unset {DATA_VARIABLE}")
    if stack is None and not any(own.get(name) for name in _PUBLISHED_VARIABLES):
        _tell(f"no stack runs on {data}, so the default addresses are used; start one: ./run up")
    if stack is not None:
        own, other = merged(own, stack)
        if other is not None:
            _tell(
                f"{other} in the environment names another installation than the stack on {data}, so the stack's "
                "environment is not used"
            )
    program = Path(sys.executable).parent / "letta-bridge"
    os.execve(program, [str(program), *sys.argv[1:]], own)  # noqa: S606  # the project's own program, no shell


def _tell(line: str) -> None:
    sys.stderr.write(f"run: {line}\n")


if __name__ == "__main__":
    main()
