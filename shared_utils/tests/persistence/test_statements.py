"""Statements as texts: what must hold of every one of them, whoever adds it."""

from __future__ import annotations

import re

from shared_utils.persistence.catalogue.known import TABLES, fixed, named
from shared_utils.persistence.database.migration import migrations
from shared_utils.persistence.dialects import OpenGauss, PostgreSQL
from shared_utils.persistence.dialects.session_settings import for_session, for_transaction, literal

_MADE = re.compile(r"^CREATE TABLE (?:IF NOT EXISTS )?(\w+)", re.MULTILINE)
_COMMENT = re.compile(r"--.*")


def test_every_table_is_named_with_its_schema() -> None:
    """Else a pooler may lead a statement to another program's table of that name."""
    tables = {name for migration in migrations() for name in _MADE.findall(migration.text)}
    assert "agent_sessions" in tables
    bare = re.compile(rf"\b(?:FROM|JOIN|INTO|UPDATE|TABLE)\s+(?:{'|'.join(sorted(tables))}|{{table}}|{{other}})\b")
    texts = [text for statements in named().values() for text in statements.values()]
    texts += [text for table in TABLES for text in fixed(table).values()]
    assert [text for text in texts if bare.search(_COMMENT.sub("", text))] == []
    assert all('{schema}."' in text for table in TABLES for text in fixed(table).values())


def test_no_statement_relies_on_its_session() -> None:
    """A lock or a setting of the session would be the next client's behind a pooler; so would LISTEN."""
    texts = {name: text for statements in named().values() for name, text in statements.items()}
    of_the_build = {"unlimited", "limited", "index_memory", "one_worker", "reset_memory", "reset_workers"}
    sessions = re.compile(
        r"pg_(?:try_)?advisory_(?:lock|unlock)\b|\A\s*(?:SET (?!LOCAL)|RESET|LISTEN|PREPARE|CREATE TEMP)"
    )
    assert {name for name, text in texts.items() if sessions.search(_COMMENT.sub("", text))} == of_the_build


def test_settings_are_set_for_a_session_or_a_transaction() -> None:
    assert for_session({"a": literal("it's"), "b": "1"}) == "SET a TO 'it''s'; SET b TO 1"
    given = {"default_transaction_isolation": "'serializable'", "session_timeout": "0", "b": "1"}
    assert for_transaction(given) == "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL b TO 1"
    assert for_transaction({}, snapshot=True) == "BEGIN ISOLATION LEVEL REPEATABLE READ"


def test_each_product_gets_only_its_known_settings() -> None:
    assert "lock_timeout" not in OpenGauss((6, 0, 0)).session_settings
    assert "session_timeout" not in PostgreSQL((16,)).session_settings
    assert "transaction_timeout" not in PostgreSQL((16,)).session_settings
    assert PostgreSQL((17,)).session_settings["transaction_timeout"] == "0"
