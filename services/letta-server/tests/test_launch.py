"""What a signal does while Letta is being imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

# An import that turns whatever comes up in it into an error of its own, as some of Letta's do.
STARTING = """
import time
from letta_server import launch
launch.exit_cleanly_when_stopped()
try:
    print("importing", flush=True)
    time.sleep(60)
except BaseException as error:
    raise ImportError("wrapped") from error
"""
SWALLOWING = STARTING.replace('raise ImportError("wrapped") from error', "time.sleep(60)")


@pytest.mark.process
@pytest.mark.parametrize("program", [STARTING, SWALLOWING], ids=["wrapping", "swallowing"])
@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_an_import_ends_it_at_once(program: str, name: signal.Signals) -> None:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(name)
        assert process.wait(10) == 0
