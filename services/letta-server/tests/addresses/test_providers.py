"""What a start does to providers and agents, on databases of either product."""

from __future__ import annotations

from typing import Any, Final

import pytest

from letta_server import database
from letta_server.addresses import start
from letta_server.errors import DatabaseUnfit
from shared_utils.llm.model_address import OPENAI

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

OLD: Final = "http://old:8000/v1"
NEW: Final = "http://new/v1"
SECRET: Final = "s3cret"


def providers(filled: Any) -> dict[str, tuple[str, bool]]:
    rows = filled.execute("SELECT name, base_url, is_deleted FROM providers")
    return {name: (address, deleted) for name, address, deleted in rows}


def handles(filled: Any) -> set[str]:
    return {handle for (handle,) in filled.execute("SELECT handle FROM provider_models")}


def test_own_providers_follow_and_added_ones_stay(filled: Any, capsys: pytest.CaptureFixture[str]) -> None:
    filled.provider("openai", f"http://me:{SECRET}@old:8000/v1")
    filled.provider("letta", "https://letta/v1")
    filled.provider("mine", OLD, added=True)
    wanted = {"openai": f"http://me:{SECRET}@new/v1", "letta": "https://letta/v1", "mine": NEW, "missing": NEW}
    start.follow(filled.url, wanted, agents=False)
    assert providers(filled) == {
        "openai": (wanted["openai"], False),
        "letta": ("https://letta/v1", False),
        "mine": (OLD, False),
    }
    said = capsys.readouterr().err
    assert said == "letta-server: the address of provider openai is now http://new/v1; it was http://old:8000/v1.\n"
    start.follow(filled.url, wanted, agents=False)
    assert capsys.readouterr().err == ""


def test_a_provider_whose_key_was_gone_once_comes_back(filled: Any) -> None:
    provider = filled.provider("openai", OLD, deleted=True)
    filled.model(provider, "openai-proxy/gone", deleted=True)
    filled.model(provider, "openai-proxy/there")
    start.follow(filled.url, {"openai": OLD}, agents=False)
    assert providers(filled) == {"openai": (OLD, False)}
    assert handles(filled) == {"openai-proxy/there"}, "a row of a deleted model keeps Letta from making it again"


@pytest.mark.parametrize(("before", "after"), [(OPENAI, NEW), (NEW, OPENAI)])
def test_handles_are_made_anew_where_their_beginning_changes(filled: Any, before: str, after: str) -> None:
    provider = filled.provider("openai", before)
    filled.model(provider, "openai/gpt-4o-mini")
    filled.model(provider, "openai/text-embedding-3-small", kind="embedding")
    start.follow(filled.url, {"openai": after}, agents=False)
    assert handles(filled) == {"openai/text-embedding-3-small"}


def test_handles_stay_where_only_the_address_changes(filled: Any) -> None:
    filled.model(filled.provider("openai", OLD), "openai-proxy/gpt")
    start.follow(filled.url, {"openai": NEW}, agents=False)
    assert handles(filled) == {"openai-proxy/gpt"}


def test_agents_are_named_with_the_command_or_follow_where_asked(
    filled: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    filled.provider("openai", OLD)
    filled.agent("agent-1", OLD, "bridge")
    filled.agent("agent-2", f"http://me:{SECRET}@older/v1", "bridge:tenant")
    filled.agent("agent-3", OLD, "another program")
    filled.agent("agent-4", OLD, "bridge")
    filled.archive("archive-1", OLD, "agent-1")
    start.follow(filled.url, {"openai": NEW}, agents=False)
    said = capsys.readouterr().err
    assert f"letta-server repoint --from {OLD} --to {NEW} --yes" in said
    assert SECRET not in said
    assert filled.addresses()["agent-1"] == OLD
    start.follow(filled.url, {"openai": NEW}, agents=True)
    after = filled.addresses()
    assert (after["agent-1"], after["agent-2"], after["archive-1"], after["agent-3"]) == (NEW, NEW, NEW, OLD)
    assert "7 agents and archives of the bridge follow" in capsys.readouterr().err


def test_tables_in_a_schema_off_the_search_path_are_found_throughout(filled: Any) -> None:
    filled.provider("openai", OLD)
    filled.agent("agent-1", OLD, "bridge")
    filled.execute("ALTER SCHEMA public RENAME TO house")
    filled.execute("CREATE SCHEMA public")
    start.follow(filled.url, {"openai": NEW}, agents=True)
    filled.execute("DROP SCHEMA public")
    filled.execute("ALTER SCHEMA house RENAME TO public")
    assert (providers(filled)["openai"][0], filled.addresses()["agent-1"]) == (NEW, NEW)


def test_a_row_that_another_session_holds_does_not_hold_the_start_for_ever(
    filled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE_MS", 200)
    filled.provider("openai", OLD)
    with filled.server.connect(filled.name) as other, other.transaction():
        other.execute("SELECT id FROM providers FOR UPDATE")
        with pytest.raises(DatabaseUnfit, match="cannot be brought up to date"):
            start.follow(filled.url, {"openai": NEW}, agents=False)
