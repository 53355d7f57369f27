"""``--dry-run`` and ``--verify``: what they say, and that they write nothing."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from letta_server.database_url import DatabaseUrl
from letta_server.transfer.database import snapshot

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server-move")]


@pytest.fixture
def copy(databases: Any, source: str) -> str:
    """A database with the source's content."""
    return str(databases.filled(source))


def test_a_dry_run_says_tables_and_counts_in_order(databases: Any, source: str, move: Any) -> None:
    target = databases.missing()
    code, out, err = move(source, target, "--dry-run")
    lines = out.splitlines()
    assert (code, len(lines)) == (0, 48)
    assert "messages: 50 rows" in lines
    assert lines.index("organizations: 8 rows") < lines.index("agents: 8 rows") < lines.index("messages: 50 rows")
    assert "48 tables, 426 rows would be copied" in err
    assert "does not exist" in err
    assert databases.name(target) not in databases.names()


def test_equal_content_is_equal(source: str, copy: str, move: Any) -> None:
    code, _, err = move(source, copy, "--verify")
    assert (code, "426 rows" in err) == (0, True), err


CHANGES = {
    "messages has 50 rows in the source and 45 in the target": "DELETE FROM messages WHERE sequence_id % 10 = 0",
    "agents has rows that differ": "UPDATE agents SET description = '' WHERE description IS NULL",
    "block has rows that differ": "UPDATE block SET metadata_ = '{}' WHERE id LIKE '1-%'",
    "archival_passages has rows that differ": (
        "UPDATE archival_passages SET embedding = embedding + array_fill(1e-4, '{4096}')::vector"
    ),
    "runs has rows that differ": (
        "UPDATE runs SET created_at = created_at + interval '1 microsecond' WHERE id LIKE '2-%'"
    ),
    "sequence message_seq_id is behind": "SELECT setval('message_seq_id', 123455)",
}


def test_each_difference_is_found_and_no_other(databases: Any, source: str, copy: str, move: Any) -> None:
    with databases.connect(copy) as connection:
        for change in CHANGES.values():
            connection.execute(change)
    code, _, err = move(source, copy, "--verify")
    assert (code, err.count("\n")) == (1, 1)
    assert [named for named in CHANGES if named not in err] == []
    assert err.count(" has rows ") + err.count(" has 50 rows ") + err.count(" is behind ") == len(CHANGES)


def test_a_missing_target_stays_missing(databases: Any, source: str, move: Any) -> None:
    target = databases.missing()
    code, _, err = move(source, target, "--verify")
    assert (code, "does not exist" in err, err.count("\n")) == (1, True, 1), err
    assert databases.name(target) not in databases.names()


def test_the_source_is_one_moment_and_cannot_be_written(databases: Any, copy: str) -> None:
    with snapshot(DatabaseUrl.parse(copy)) as connection, databases.connect(copy) as other:
        other.execute("DELETE FROM messages")
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (50,)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("DELETE FROM prompts")
