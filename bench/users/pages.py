"""What a bridge's health page and metrics cost where there are a million users, while it works off tasks."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
import psycopg
import redis

from local_stack.letta_double.process import LettaDouble
from local_stack.postgres import Postgres
from local_stack.programs import CHECKOUT, program
from local_stack.valkey import Valkey

_SESSIONS = CHECKOUT / "shared_utils/tests/persistence/sessions/many_sessions.sql"
_PORT = 28290
_PAGES = ("/metrics", "/health")
_ROUNDS, _TASKS = 12, 600
_PAUSE_SECONDS = 1.2
"""Longer than an answer is given again."""


def measure(postgres: Postgres, valkey: Valkey, letta: str, folder: Path, users: int) -> None:
    """Fill a database, start a bridge, and print a line per figure."""
    environment = {
        "PATH": os.environ["PATH"],
        "REDIS_URL": valkey.url,
        "DATABASE_URL": postgres.url("bridge"),
        "DB_QUERY_TIMEOUT": "60",
        "LETTA_API_URL": letta,
        "DATA_DIR": str(folder / "data"),
        "BRIDGE_HTTP_PORT": str(_PORT),
    }
    subprocess.run([program("letta-bridge"), "migrate"], env=environment, check=True)
    with psycopg.connect(postgres.url("bridge"), autocommit=True) as connection:
        connection.execute("SET search_path TO letta_bridge")
        connection.execute(_SESSIONS.read_bytes(), {"sessions": users})
        connection.execute("ANALYZE")
    began = time.perf_counter()
    with (folder / "bridge.log").open("w") as log:
        bridge = subprocess.Popen([program("letta-bridge"), "run"], env=environment, stdout=log, stderr=log)
    try:
        with redis.Redis.from_url(valkey.url) as client:
            while not client.zcard("{letta_requests}:bridges"):
                time.sleep(0.1)
            print(f"a start, until tasks are taken: {time.perf_counter() - began:.1f} s")
            _ask(client, users)
    finally:
        bridge.terminate()
        bridge.wait()


def _ask(client: redis.Redis, users: int) -> None:
    taken: dict[str, list[float]] = {page: [] for page in _PAGES}
    for start in range(0, _ROUNDS * _TASKS, _TASKS):
        for number in range(start, start + _TASKS):
            task = {"task_id": f"t{number}", "user_id": f"user-{number * 37 % users}", "content": "hi"}
            client.lpush("letta_requests", json.dumps(task))
        for page, seconds in taken.items():
            begin = time.perf_counter()
            httpx.get(f"http://127.0.0.1:{_PORT}{page}", timeout=60).raise_for_status()
            seconds.append(time.perf_counter() - begin)
        time.sleep(_PAUSE_SECONDS)
    for page, seconds in taken.items():
        print(f"{page}: {statistics.median(seconds) * 1000:.0f} ms, at most {max(seconds) * 1000:.0f}")


def main() -> None:
    """Bring the servers up and down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    users = parser.parse_args().users
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        postgres, valkey = Postgres(folder / "postgres", durable=False), Valkey(folder / "redis", logs=folder)
        letta = LettaDouble(logs=folder, latency=0.05)
        try:
            for server in (postgres, valkey, letta):
                server.start()
                server.wait_ready()
            postgres.create_database("bridge")
            measure(postgres, valkey, letta.url, folder, users)
        finally:
            for server in (letta, valkey, postgres):
                server.kill()


if __name__ == "__main__":
    main()
