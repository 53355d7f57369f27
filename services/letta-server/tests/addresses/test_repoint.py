"""``letta-server repoint`` on databases of either product."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from letta_server import database
from letta_server.addresses import holders
from letta_server.main import main
from shared_utils.llm.model_address import OPENAI

pytestmark = [pytest.mark.integration, pytest.mark.letta, pytest.mark.xdist_group("letta-server")]

OLD: Final = "http://old:8000/v1"
NEW: Final = "http://new/v1"
SECRET: Final = "s3cret"

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def run(filled: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    for name, value in filled.server.variables(filled.name).items():
        monkeypatch.setenv(name, value)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    # libpq's ping keeps the interpreter from running the double, which is a thread of this process.
    monkeypatch.setattr(database, "wait_for_server", lambda *_: None)

    def command(*arguments: str) -> tuple[int, str]:
        code = main(["repoint", *arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return command


@pytest.fixture
def inhabited(filled: Any) -> Any:
    """Agents of the bridge and of others, at the old address and elsewhere, and their archives."""
    filled.provider("openai", OLD)
    filled.provider("mine", OLD, added=True)
    filled.agent("agent-1", OLD, "bridge", "user:ada")
    filled.agent("agent-2", f"http://me:{SECRET}@old:8000/v1/", "bridge:tenant", "user:ben")
    filled.agent("agent-3", "http://elsewhere/v1", "bridge")
    filled.agent("agent-4", OLD, "another program")
    filled.agent("agent-5", OLD, "bridge", provider_name="mine", provider_category="byok")
    filled.archive("archive-1", OLD, "agent-1")
    filled.archive("archive-2", OLD, "agent-2", "agent-4")
    filled.archive("archive-3", OLD)
    return filled


def test_agents_of_the_bridge_move_and_no_other(inhabited: Any, run: Command) -> None:
    before = inhabited.addresses()
    code, said = run("--from", OLD, "--to", NEW)
    assert (code, "nothing was changed" in said, inhabited.addresses()) == (0, True, before)
    code, said = run("--from", f"{OLD}/", "--to", f"{NEW}/", "--yes")
    assert (code, "changed." in said, SECRET in said) == (0, True, False)
    after = inhabited.addresses()
    assert (after["agent-1"], after["agent-2"], after["archive-1"]) == (NEW, NEW, NEW)
    assert after["agent-5"] == f"{OLD} {NEW}", "its model is that of an added provider, its embeddings are not"
    untouched = {"agent-3", "agent-4", "archive-2", "archive-3"}
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
    [[config]] = inhabited.execute("SELECT llm_config::text FROM agents WHERE id = 'agent-1'")
    assert json.loads(config)["model"] == "gpt"
    code, said = run("--from", OLD, "--to", NEW, "--yes")
    assert (code, "no agent of the bridge has the address" in said) == (0, True)


@pytest.mark.parametrize("deleted", [False, True])
def test_an_added_provider_with_the_name_of_lettas_own_is_told_by_its_address(
    filled: Any, run: Command, *, deleted: bool
) -> None:
    filled.provider("openai", OLD)
    added = filled.provider("mine", "http://mine/v1/", added=True, deleted=deleted)
    filled.execute("UPDATE providers SET name = 'openai' WHERE id = %s", [added])
    filled.agent("agent-1", OLD, "bridge")
    filled.archive("archive-1", OLD, "agent-1")
    filled.agent("agent-2", OLD, "bridge")
    filled.archive("archive-2", "http://mine/v1", "agent-2")
    assert run("--from", OLD, "--to", NEW, "--yes")[0] == 0
    assert run("--from", "http://mine/v1", "--to", NEW, "--yes")[0] == 0
    moved = dict.fromkeys(("agent-1", "agent-2", "archive-1"), NEW)
    assert filled.addresses() == moved | {"archive-2": "http://mine/v1"}


def test_tables_in_a_schema_off_the_search_path_are_moved_to_the_last(
    inhabited: Any, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders, "_BATCH", 1)
    inhabited.execute("ALTER SCHEMA public RENAME TO house")
    inhabited.execute("CREATE SCHEMA public")
    assert run("--from", OLD, "--to", NEW, "--yes")[0] == 0
    inhabited.execute("DROP SCHEMA public")
    inhabited.execute("ALTER SCHEMA house RENAME TO public")
    after = inhabited.addresses()
    assert {after[name] for name in ("agent-1", "agent-2", "archive-1")} == {NEW}


def test_a_tag_or_all_chooses_others(inhabited: Any, run: Command) -> None:
    assert run("--from", OLD, "--to", NEW, "--tag", "bridge:tenant", "--yes")[0] == 0
    after = inhabited.addresses()
    assert (after["agent-1"], after["agent-2"]) == (OLD, NEW)
    assert run("--from", OLD, "--to", NEW, "--all", "--yes")[0] == 0
    after = inhabited.addresses()
    assert {after[name] for name in ("agent-1", "agent-4", "archive-2", "archive-3")} == {NEW}
    assert after["agent-5"].startswith(OLD)


@pytest.mark.parametrize("tag", ["user:50%", "user:%s", "it's", "a\\b", "用户"])
def test_a_tag_is_a_value_whatever_its_characters(filled: Any, run: Command, tag: str) -> None:
    filled.agent("agent-1", OLD, tag)
    filled.agent("agent-2", OLD, "user:500")
    assert run("--from", OLD, "--to", NEW, "--tag", tag, "--yes")[0] == 0
    assert filled.addresses() == {"agent-1": NEW, "agent-2": OLD}


def test_an_interrupted_move_is_completed_by_the_same_command(
    inhabited: Any, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(25):
        inhabited.agent(f"agent-many-{number:02}", OLD, "bridge")
    monkeypatch.setattr(holders, "_BATCH", 10)
    write, calls = holders._write, iter(range(1000))

    def stopping(*arguments: Any) -> bool:
        if next(calls) == 15:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(holders, "_write", stopping)
    code, said = run("--from", OLD, "--to", NEW, "--yes")
    assert (code, "run the same command again" in said) == (1, True)
    moved = sum(address.startswith(NEW) for address in inhabited.addresses().values())
    assert moved == 11, "the one row of the first batch, and the ten of the second"
    monkeypatch.setattr(holders, "_write", write)
    assert run("--from", OLD, "--to", NEW, "--yes")[0] == 0
    left = [name for name, address in inhabited.addresses().items() if "many" in name and address != NEW]
    assert left == []


def test_a_row_that_changes_meanwhile_is_left_and_found_again(
    inhabited: Any, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, config = holders._write, json.dumps({"model": "other", "model_endpoint": OLD, "provider_name": "openai"})

    def late(connection: Any, column: Any, row_id: str, *rest: Any) -> bool:
        if row_id == "agent-1" and column.name == "llm_config":
            inhabited.execute("UPDATE agents SET llm_config = %s WHERE id = 'agent-1'", [config])
        return write(connection, column, row_id, *rest)

    monkeypatch.setattr(holders, "_write", late)
    code, said = run("--from", OLD, "--to", NEW, "--yes")
    assert (code, "1 were changed by another program" in said) == (1, True)
    monkeypatch.setattr(holders, "_write", write)
    assert run("--from", OLD, "--to", NEW, "--yes")[0] == 0
    [[found]] = inhabited.execute("SELECT llm_config::text FROM agents WHERE id = 'agent-1'")
    assert json.loads(found) == json.loads(config) | {"model_endpoint": NEW}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", OLD), "give --to, or set OPENAI_BASE_URL"),
        (("--from", "old:8000", "--to", NEW), "--from must be a URL"),
        (("--from", OLD, "--to", "new"), "--to must be a URL"),
        (("--from", OLD, "--to", f"{NEW} {NEW}"), "--to must be a URL"),
        (("--from", OLD, "--to", f"{OLD}/"), "the same address"),
    ],
)
def test_wrong_arguments_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv("LETTA_PG_URI", "postgresql://me@127.0.0.1:1/letta")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert main(["repoint", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_new_address_may_come_from_the_settings_with_its_login(
    inhabited: Any, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://me:{SECRET}@new/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-any")
    code, said = run("--from", OLD, "--yes")
    assert (code, SECRET in said) == (0, False)
    assert inhabited.addresses()["agent-1"] == f"http://me:{SECRET}@new/v1"
    assert "provider openai is at http://old:8000/v1" in said


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"OPENAI_BASE_URL": f'"{NEW}/"'}, NEW),
        ({"OPENAI_API_BASE": NEW}, NEW),
        ({"OPENAI_BASE_URL": "", "OPENAI_API_BASE": NEW}, NEW),
        ({}, OPENAI),
    ],
)
def test_check_and_repoint_read_the_address_as_the_start_does(
    inhabited: Any,
    run: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, str],
    wanted: str,
) -> None:
    for name, value in (given | {"OPENAI_API_KEY": "sk-any"}).items():
        monkeypatch.setenv(name, value)
    assert main(["check"]) == 0
    said = capsys.readouterr().out
    assert f"model     {wanted}\n" in said
    assert f"the next start makes it {wanted}\n" in said
    assert f"letta-server repoint --from {OLD} --to {wanted} --yes" in said
    code, said = run("--from", OLD)
    assert (code, f"{OLD} -> {wanted}\n" in said) == (0, True)


def test_a_database_that_fails_while_counting_is_named(
    inhabited: Any, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders, "places", lambda connection, _: connection.execute("SELECT 1 / 0"))
    code, said = run("--from", OLD, "--to", NEW)
    assert (code, "Interrupted (division by zero)" in said) == (1, True)


def test_a_command_that_is_stopped_before_its_work_does_not_succeed(
    inhabited: Any, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(database, "wait_for_server", stopped)
    code, said = run("--from", OLD, "--to", NEW, "--yes")
    assert (code, "stopped" in said, inhabited.addresses()["agent-1"]) == (130, True, OLD)
