"""The double of Letta passes the contract suite of the bridge's port, as the real server does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bridge_chaos.letta_double import LettaDouble
from local_stack.programs import CHECKOUT

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("chaos")]

SUITE = CHECKOUT / "services" / "letta-bridge-python" / "tests" / "letta" / "test_port_contract.py"
NOT_DOUBLED = "export or tools_it_was_given or does_not_exist or (length_limit and fake)"
"""Agent files: backups are tried with the real server. The fake has no model that cuts a text."""


def test_the_double_passes_the_ports_contract_suite(tmp_path):
    double = LettaDouble(tmp_path / "letta.db", logs=tmp_path, name="letta", latency=0.05)
    double.start()
    try:
        double.wait_ready()
        command = [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", SUITE, "-m", "letta"]
        ended = subprocess.run(
            [*command, "-k", f"not ({NOT_DOUBLED})"],
            cwd=CHECKOUT,
            env=os.environ | {"LETTA_TEST_URL": double.url},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        double.kill()
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert "skipped" not in ended.stdout
