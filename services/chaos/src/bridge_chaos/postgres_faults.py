"""The bridges' database is killed, cut off, out of connections, read-only, or locked."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from bridge_chaos.fault import Fault, Scene

_AWAY: Final = 5.0


def faults() -> list[Fault]:
    """All of them."""
    return [
        Fault("postgres/kill", "PostgreSQL gets SIGKILL and is started again", _kill),
        Fault("postgres/restart", "PostgreSQL is restarted politely", _restart),
        Fault("postgres/away", f"PostgreSQL is down for {_AWAY:g} s", _away),
        Fault("postgres/black-hole", f"no byte passes between PostgreSQL and the bridges for {_AWAY:g} s", _black_hole),
        Fault("postgres/connections", f"the database takes no connection more, for {_AWAY:g} s", _no_connections),
        Fault("postgres/read-only", f"the database refuses to write for {_AWAY:g} s", _read_only),
        Fault(
            "postgres/locks",
            f"somebody locks the journal's tables in the wrong order for {_AWAY:g} s: deadlocks",
            _locks,
        ),
    ]


def _kill(scene: Scene) -> None:
    scene.strike()
    scene.rig.restart(scene.rig.postgres)


def _restart(scene: Scene) -> None:
    scene.strike()
    scene.rig.postgres.restart()


def _away(scene: Scene) -> None:
    scene.strike()
    scene.rig.postgres.kill()
    scene.let_pass(_AWAY)
    scene.rig.restart(scene.rig.postgres)


def _black_hole(scene: Scene) -> None:
    scene.strike()
    scene.rig.to_postgres.blackhole()
    scene.let_pass(_AWAY)
    scene.rig.to_postgres.resume()


def _no_connections(scene: Scene) -> None:
    scene.strike()
    _alter(scene, "ALTER DATABASE {} WITH CONNECTION LIMIT 0")
    try:
        _drop_sessions(scene)
        scene.let_pass(_AWAY)
    finally:
        _alter(scene, "ALTER DATABASE {} WITH CONNECTION LIMIT -1")


def _read_only(scene: Scene) -> None:
    scene.strike()
    _alter(scene, "ALTER DATABASE {} SET default_transaction_read_only = on")
    try:
        _drop_sessions(scene)
        scene.let_pass(_AWAY)
    finally:
        _alter(scene, "ALTER DATABASE {} SET default_transaction_read_only = off")
        _drop_sessions(scene)


def _locks(scene: Scene) -> None:
    scene.strike()
    until = time.monotonic() + _AWAY
    with psycopg.connect(scene.rig.postgres.url(scene.rig.database), autocommit=True) as connection:
        # The bridge notices the deadlock first, and is the one whose transaction ends.
        connection.execute("SET deadlock_timeout = '30s'")
        connection.execute("SET lock_timeout = '4s'")
        while time.monotonic() < until:
            with suppress(psycopg.errors.LockNotAvailable), connection.transaction():
                # The other way round than the journal takes them.
                connection.execute("LOCK TABLE letta_bridge.agent_messages IN ACCESS EXCLUSIVE MODE")
                scene.let_pass(0.3)
                connection.execute("LOCK TABLE letta_bridge.agent_conversations IN ACCESS EXCLUSIVE MODE")
            scene.let_pass(0.2)


def _alter(scene: Scene, statement: LiteralString) -> None:
    with psycopg.connect(scene.rig.postgres.url(), autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(scene.rig.database)))


def _drop_sessions(scene: Scene) -> None:
    with psycopg.connect(scene.rig.postgres.url(), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (scene.rig.database,)
        )
