from __future__ import annotations

import os
import subprocess
import sys

import pytest

from memory_service.instance import instance_name, surely_dead

_WORKER = "from memory_service.instance import instance_name; print(instance_name())"


@pytest.mark.process
def test_names_differ_and_tell_a_process_that_ended() -> None:
    ended = subprocess.run([sys.executable, "-c", _WORKER], capture_output=True, text=True, check=True).stdout.strip()
    assert instance_name() != instance_name()
    assert surely_dead(ended)


def test_instance_of_unknown_state_is_not_surely_dead() -> None:
    host, namespace, _, token = instance_name().rsplit(":", 3)
    assert not surely_dead(f"{host}:{namespace}:{os.getppid()}:{token}")
    assert not surely_dead(f"{host}:another:999999999:{token}")
    assert not surely_dead(f"elsewhere:{namespace}:999999999:{token}")
    assert not surely_dead("somebody")
    assert surely_dead(f"{host}:another:{os.getpid()}:{token}")
