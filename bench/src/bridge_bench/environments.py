"""A virtual environment per peer, made on first use from its lock; peers want different versions of the same things."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

from bridge_bench.errors import MissingPeer
from local_stack.programs import CHECKOUT, environment

PEERS = CHECKOUT / "bench" / "peers"
_UV = CHECKOUT / ".tools" / "bin" / "uv"
_LOCK_FILE = "requirements.lock"


def python_of(name: str) -> Path:
    """The interpreter of ``peers/<name>``, with what its lock names.

    Raises:
        MissingPeer: it could not be installed.
    """
    folder = PEERS / name
    venv = folder / ".venv"
    python = venv / "bin" / "python"
    lock = (folder / _LOCK_FILE).read_bytes()
    stamp = venv / "stamp"
    now = f"{zlib.crc32(lock)} {sys.version_info[:2]}"
    if not stamp.exists() or stamp.read_text() != now:
        _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(venv), name=name)
        sync = ("pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode", str(folder / _LOCK_FILE))
        _uv(*sync, name=name, VIRTUAL_ENV=str(venv))
        stamp.write_text(now)
    return python


def versions_of(name: str, packages: tuple[str, ...]) -> str:
    """Names and versions of a peer's own packages, as its lock has them."""
    lines = (PEERS / name / _LOCK_FILE).read_text().splitlines()
    pins = dict(line.split(" ", 1)[0].split("==") for line in lines if "==" in line.split(" ", 1)[0])
    return ", ".join(f"{package} {pins[package]}" for package in packages)


def _uv(*arguments: str, name: str, **variables: str) -> None:
    if not _UV.exists():
        raise MissingPeer(f"{_UV} is missing, so the environment of {name} cannot be made; './run sync' brings it.")
    done = subprocess.run(  # noqa: S603 - the project's own uv, arguments from this file
        [_UV, *arguments], env=environment(**variables), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MissingPeer(f"The environment of {name} could not be made: {done.stderr.strip()[-500:]}")
