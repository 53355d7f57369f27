from __future__ import annotations

import signal
import subprocess
import sys

import psycopg
import pytest

from local_stack.postgres import Postgres


@pytest.mark.process
@pytest.mark.integration
def test_serves_until_it_is_reported_to_stop(postgres_server: Postgres) -> None:
    words = [sys.executable, "-m", "opengauss_double", "--profile", "7.0", "--listen", "127.0.0.1:0"]
    words += ["--upstream", postgres_server.url(), "--account", "gaussdb:Gauss#2024"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert line.startswith("openGauss 7.0.0-RC1 listens on 127.0.0.1:")
            url = f"postgresql://gaussdb:Gauss%232024@{line.split()[-1]}/postgres?sslmode=disable"
            with psycopg.connect(url, autocommit=True) as connection:
                assert connection.execute("SELECT opengauss_version()").fetchone() == ("7.0.0-RC1",)
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.process
def test_says_in_a_sentence_why_it_cannot_start() -> None:
    words = [sys.executable, "-m", "opengauss_double", "--upstream", "mysql://here"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("opengauss-double: The upstream is no URL")
