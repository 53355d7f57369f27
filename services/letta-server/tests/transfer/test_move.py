"""A whole move through the command: there and back, killed and continued."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from letta_server.transfer.transfer import Transfer

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server-move")]


def test_by_way_of_two_opengausses_and_back_gives_the_same_content(
    databases: Any, source: str, letta_server: Any, move: Any
) -> None:
    before = databases.content(source)
    assert sum(map(len, before.values())) > 400
    here = source
    for there in [databases.missing("6.0.2"), databases.missing("7.0")]:
        # The installed command: these targets need Letta's models first.
        code, said = letta_server.run("move", "--from", here, "--to", there, "--batch", "20", settings={})
        assert (code, said.count("\nmessages: 50 rows\n")) == (0, 1), said
        assert databases.content(there) == before
        here = there
    back = databases.ready()
    code, _, err = move(here, back)
    assert code == 0, err
    assert databases.content(back) == before
    assert databases.content(source) == before


@pytest.mark.parametrize("profile", [None, "7.0"])
def test_killed_in_the_middle_of_a_table_it_resumes_from_there(
    databases: Any, source: str, letta_server: Any, move: Any, profile: str | None
) -> None:
    target = databases.ready(profile)
    with databases.connect(source) as reader, databases.connect(target) as holder:
        query = "SELECT id, sequence_id FROM messages ORDER BY id OFFSET 40 LIMIT 1"
        [(name, number)] = reader.execute(query).fetchall()
        # Another session is about to write a row of the last batch, so that batch waits for what becomes of it.
        holder.execute("SET session_replication_role = replica")
        holder.execute("BEGIN")
        row = "INSERT INTO messages (id, sequence_id, agent_id, organization_id, role, tool_calls, is_deleted)"
        holder.execute(f"{row} VALUES (%s, %s, '', '', '', '[]', false)", [name, number])
        victim = letta_server.start("move", "--from", source, "--to", target, "--batch", "16", settings={})
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        until(lambda: reader.execute(waiting).fetchone() == (1,), victim)
        victim.process.kill()
        holder.execute("ROLLBACK")
        assert victim.ended() == -signal.SIGKILL
    left = databases.content(target)
    assert (len(left["messages"]), len(left["agents"])) == (32, 8)
    code, out, err = move(source, target)
    assert (code, "continuing" in err) == (0, True), err
    assert "messages: 50 rows\n" in out
    assert databases.content(target) == databases.content(source)


def test_interrupted_move_leaves_the_target_unowned(databases: Any, source: str, move: Any) -> None:
    target, other = databases.ready(), databases.filled(source)
    with databases.connect(target) as connection:
        # The organizations' rows are in when the agents' turn out not to fit.
        connection.execute("ALTER TABLE agents ADD CONSTRAINT none CHECK (id IS NULL)")
        code, _, err = move(source, target)
        assert (code, "none" in err, err.count("\n")) == (1, True, 1)
        stamp = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        assert stamp == ("half of letta-server move",)
        for from_, to, refusal in [
            (target, databases.ready(), "contains an unfinished move"),
            (other, target, "contains an unfinished move"),
        ]:
            code, _, err = move(from_, to)
            assert (code, refusal in err, err.count("\n")) == (1, True, 1)
        connection.execute("ALTER TABLE agents DROP CONSTRAINT none")
    assert move(source, target)[0] == 0
    assert databases.content(target) == databases.content(source)


def test_a_session_that_is_cut_is_gone_on_with(databases: Any, source: str, move: Any) -> None:
    target = databases.ready()
    with databases.connect(target) as connection:
        connection.execute(
            "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"
        )
        connection.execute("CREATE TRIGGER cut BEFORE INSERT ON agents FOR EACH ROW EXECUTE FUNCTION cut()")
        code, _, err = move(source, target)
        assert (code, "run the same command again" in err, err.count("\n")) == (1, True, 1), err
        connection.execute("DROP FUNCTION cut() CASCADE")
    assert move(source, target)[0] == 0
    assert databases.content(target) == databases.content(source)


def test_ctrl_c_is_no_success(databases: Any, source: str, move: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Transfer, "run", stop)
    code, _, err = move(source, databases.ready())
    assert (code, "Stopped; run" in err, err.count("\n")) == (1, True, 1), err


def until(reached: Callable[[], bool], started: Any) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert started.process.poll() is None, started.said
        assert time.monotonic() < deadline
        time.sleep(0.02)
