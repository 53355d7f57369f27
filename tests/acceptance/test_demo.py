"""`./run demo` holds all its expectations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.letta, pytest.mark.xdist_group("demo")]


def test_the_demonstration_succeeds() -> None:
    program = Path(sys.executable).parent / "local-stack"
    demo = subprocess.run([program, "demo"], capture_output=True, text=True, check=False, timeout=300)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "expectations held" in demo.stdout
