from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bridge_bench.usage import cpu_seconds


@pytest.mark.process
def test_the_work_of_a_child_that_ended_counts() -> None:
    before = cpu_seconds(os.getpid())
    work = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", work], check=True)
    assert cpu_seconds(os.getpid()) - before >= 0.28
