"""Errors of the shared package name commands that exist."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["letta_bridge", "memory_service"])
def test_a_service_declares_the_program_that_has_the_commands(module: str) -> None:
    code = f"import {module}; from shared_utils.operator_commands import command; print(command('migrate'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "letta-bridge migrate\n"
