"""The commands about vectors, against a real database and the scripted model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from letta_bridge.journal import JOURNAL_SOURCE, conversation_id
from letta_bridge.main import app
from local_stack.models import ScriptedModel
from shared_utils.persistence.conversations.records import Conversation, Message
from shared_utils.persistence.conversations.service import ConversationService
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.database.database import Database

pytestmark = pytest.mark.integration


@pytest.fixture
def run(
    postgres_url: str, scripted_model: ScriptedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("EMBEDDING_BASE_URL", scripted_model.url)
    monkeypatch.setenv("LETTA_BRIDGE_VECTORS_SYNC_TEXTS_PER_SECOND", "10000")

    def run(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["vectors", *words])
        assert result.exit_code == code, result.output
        # The entry point sends the log elsewhere.
        return "".join(line for line in result.output.splitlines(keepends=True) if "[info " not in line)

    return run


async def journal(url: str, user: str, *facts: str) -> None:
    database = Database(DatabaseConfig.model_validate({"db_url": url}))
    service = ConversationService(database, source=JOURNAL_SOURCE)
    conversation = Conversation(
        id=conversation_id(user, "default"), user_id=user, source=JOURNAL_SOURCE, metadata={"persona": "default"}
    )
    messages = []
    for number, fact in enumerate(facts):
        messages += [
            Message(conversation_id=conversation.id, role="user", content=fact, ordinal=2 * number),
            Message(conversation_id=conversation.id, role="assistant", content="ok", ordinal=2 * number + 1),
        ]
    await service.record([conversation], messages)
    await database.close()


async def forget(url: str, user: str) -> None:
    database = Database(DatabaseConfig.model_validate({"db_url": url}))
    await ConversationService(database).delete(conversation_id(user, "default"))
    await database.close()


def test_from_journal_to_search_and_to_another_model(
    run: Callable[..., Any], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(journal(postgres_url, "ada", "I like oolong tea.", "My cat is called Mochi."))
    asyncio.run(journal(postgres_url, "小明", "我喜欢乌龙茶。", "My cat is called Tama."))
    assert run("sync", "--no-agents") == "4 vectors stored, 0 removed\n"
    assert json.loads(run("sync", "--no-agents", "--json")) == {"stored": 0, "removed": 0}
    found = json.loads(run("search", "what is my cat called", "--user", "ada", "--json"))
    assert [match["source_id"] for match in found] == ["user:ada"] * 2
    assert "Mochi" in found[0]["text"]
    assert "Tama" in run("search", "what is the cat called", "--all")
    assert "name the owner" in run("search", "x", code=2)
    assert "name the owner" in run("search", "x", "--user", "ada", "--all", code=2)
    assert "4 passages" in run("stats")
    assert run("reindex").startswith("ready")

    monkeypatch.setenv("EMBEDDING_MODEL", "text-embedding-3-large")
    assert "Mochi" in run("search", "what is my cat called", "--user", "ada")  # with the model before, until
    assert json.loads(run("reembed", "--drop", "--json")) == {"embedded": 4, "tables_dropped": 1}
    [table] = json.loads(run("stats", "--json"))["tables"]
    assert (table["model"], table["dimensions"], table["passages"]) == ("text-embedding-3-large", 3072, 4)
    assert "Mochi" in run("search", "what is my cat called", "--user", "ada")

    asyncio.run(forget(postgres_url, "小明"))
    assert run("sync", "--no-agents") == "0 vectors stored, 2 removed\n"
    assert json.loads(run("search", "cat", "--user", "小明", "--json")) == []


def test_import_reports_its_results(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    assert "no passages of Letta" in run("import", "--from", f"sqlite:///{tmp_path}/empty.db", code=1)
    assert "is no file" in run("import", "--from", "sqlite:///nothing.db", code=1)
    assert "--from takes" in run("import", "--from", "mysql://x", code=2)


def test_vectors_commands_refuse_without_a_database(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    assert "set DATABASE_URL" in run("stats", code=2)
