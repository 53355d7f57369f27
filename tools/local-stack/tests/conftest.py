from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local_stack.processes import Process

Script = Callable[..., Process]


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    """Makes children from a few lines of Python; they are ready once they have touched the file `ready`."""
    made: list[Process] = []

    def make(code: str, **options: object) -> Process:
        source = tmp_path / f"script-{len(made)}.py"
        source.write_text("import pathlib, signal, sys, time\n" + textwrap.dedent(code))
        ready = tmp_path / "ready"
        settings: dict[str, Any] = {
            "logs": tmp_path,
            "ready": ready.exists,
            "cwd": tmp_path,
            "stop_timeout": 0.3,
        } | options
        process = Process(f"script-{len(made)}", [sys.executable, "-I", "-S", source], **settings)
        made.append(process)
        return process

    yield make
    for process in made:
        process.kill()


@pytest.fixture
def serve_forever() -> str:
    return 'pathlib.Path("ready").touch()\nwhile True: time.sleep(1)\n'
