"""Keys, records, letters and settings, without any server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError
from redis.crc import key_slot
from typer.testing import CliRunner

from memory_service import keys, records
from memory_service.config_layout import LAYOUT
from memory_service.handover import read_handover
from memory_service.input_queue import Letter
from memory_service.keys import QueueKeys
from memory_service.main import _app
from memory_service.settings import MemorySettings, ServiceSettings
from shared_utils.config.settings import load
from shared_utils.contracts.limits import Limits
from shared_utils.contracts.messages import AiResponse, Handover, Task
from shared_utils.errors import MalformedMessage

ENV = ("REDIS_URL", "OPENAI_BASE_URL", "OPENAI_API_KEY", "MEMORY_MODEL", "LETTA_BRIDGE_CONFIG", "MEMORY_HTTP_PORT")


@given(some.text(min_size=1).filter(lambda user: "}" not in user))
def test_a_list_and_its_seen_set_share_a_cluster_slot(user: str) -> None:
    messages = keys.user_session(user)
    assert key_slot(messages.encode(errors="replace")) == key_slot(keys.seen(messages).encode(errors="replace"))


def test_so_do_a_tagged_user_and_every_user_and_all_that_belongs_to_a_queue() -> None:
    tagged = keys.user_session("team{7}x")
    assert key_slot(tagged.encode()) == key_slot(keys.seen(tagged).encode())
    assert key_slot(keys.GLOBAL_CONTEXT.encode()) == key_slot(keys.seen(keys.GLOBAL_CONTEXT).encode())
    queue = QueueKeys("user_input_queue")
    names = [queue.queue, queue.incoming, queue.processing("host:1"), queue.instances, queue.dead, queue.counters]
    assert len({key_slot(name.encode()) for name in names}) == 1
    assert len(set(names)) == 6


def test_a_tasks_record_has_the_same_id_whoever_takes_it_and_another_users_never() -> None:
    task = Task(task_id="t", user_id="ann", content="x")

    def identity(task: Task, receipt: str) -> str:
        return records.of_task(task, receipt=receipt, require_ai_response=True).record.message_id

    assert identity(task, "r1") == identity(task, "r2")
    assert identity(task, "r1") != identity(task.model_copy(update={"user_id": "bob"}), "r1")
    nameless = task.model_copy(update={"task_id": ""})
    assert identity(nameless, "r1") == identity(nameless, "r1") != identity(nameless, "r2")


def test_answer_published_and_stored_directly_is_one_record() -> None:
    said = AiResponse(user_id="ann", text="x", original_message_id="m", timestamp=1760000000.123456)
    heard = AiResponse.model_validate_json(said.model_dump_json(exclude_none=True))
    ours, theirs = records.of_ai_response(said, task_id="t"), records.of_ai_response(heard)
    assert ours.record.message_id == theirs.record.message_id
    assert ours.update is None
    other = records.of_ai_response(said.model_copy(update={"text": "y"}))
    assert other.record.message_id != ours.record.message_id


@pytest.mark.parametrize("timestamp", ["", "yesterday", "9999-99-99"])
def test_an_unreadable_time_is_none(record: Any, timestamp: str) -> None:
    assert records.written_at(record("x", timestamp=timestamp)) is None


@given(some.recursive(some.none() | some.booleans() | some.floats() | some.text(), some.lists, max_leaves=3))
def test_no_handover_can_do_more_than_be_refused(value: Any) -> None:
    task = Task.model_validate({"task_id": "t", "meta": {"letta_bridge": value}})
    if value is None:
        assert read_handover(task, "") is None
    else:
        with pytest.raises(MalformedMessage, match=r"meta\.letta_bridge"):
            read_handover(task, "")


def test_a_handover_of_another_tenant_is_refused() -> None:
    def handed(**fields: Any) -> Task:
        meta = {"letta_bridge": {"version": 1, "answer_key": "k", **fields}}
        return Task.model_validate({"task_id": "t", "user_id": "ada", "meta": meta})

    assert read_handover(handed(version=2, tenant="shop"), "shop") is not None
    for task, tenant in ((handed(version=2, tenant="shop"), ""), (handed(), "shop"), (handed(tenant="a"), "b")):
        with pytest.raises(MalformedMessage, match="tenant") as caught:
            read_handover(task, tenant)
        assert caught.value.user_id == "ada"


def test_memories_are_looked_for_in_the_schema_of_the_tenant() -> None:
    environ = {"DATABASE_URL": "postgresql://h/d", "TENANT": "shop"}
    found = load(ServiceSettings, LAYOUT, config=None, environ=environ).settings
    assert found.database.schema_name == "letta_bridge_shop"


def test_a_handover_has_defaults_and_room_for_later_fields() -> None:
    meta = {"letta_bridge": {"version": 1, "answer_key": "k", "later": True}}
    found = read_handover(Task.model_validate({"task_id": "t", "meta": meta}), "")
    assert found == Handover(answer_key="k", answer_ttl=600, responses_channel="letta_responses", reason="fallback")


@given(some.binary(max_size=300))
def test_a_letter_holds_any_payload(payload: Any) -> None:
    told = json.loads(Letter(payload, "malformed", "because").dump())
    assert (told["bytes"], told["code"], told["reason"]) == (len(payload), "malformed", "because")


def test_the_environment_names_the_model_and_its_key_is_not_shown() -> None:
    environ = {"MEMORY_MODEL": "m", "OPENAI_BASE_URL": "http://model/v1", "OPENAI_API_KEY": "sk-secret"}
    settings = load(ServiceSettings, LAYOUT, config=None, environ=environ).settings
    assert settings.memory.answer.model == "m"
    assert settings.memory.answer.base_url == "http://model/v1"
    assert "sk-secret" not in repr(settings)


def test_the_limits_of_a_task_are_those_of_the_bridge(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"queue": {"requests": "letta_requests", "max_id_length": 300, "lease": 30}}')
    environ = {"LETTA_BRIDGE_QUEUE_MAX_PAYLOAD_BYTES": "2048", "LETTA_BRIDGE_QUEUE_LEASE_SECONDS": "10"}
    limits = load(ServiceSettings, LAYOUT, config=config, environ=environ).settings.queue.limits
    assert limits == Limits(payload_bytes=2048, depth=16, id_length=300)


def test_a_summary_without_a_model_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs a model"):
        MemorySettings.model_validate({"summary": {"enabled": True}})


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    for name in ENV:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **env: CliRunner().invoke(_app, list(arguments), env=env)


def test_the_command_line_explains_itself(run_cli: Any) -> None:
    shown = run_cli("--help")
    assert shown.exit_code == 0
    assert "Exit codes" in shown.output
    assert run_cli("nonsense").exit_code == 2


def test_a_wrong_configuration_is_one_sentence_and_exit_2(run_cli: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"memory": {"max_memory_sise": 5}}')
    wrong = run_cli("run")
    assert (wrong.exit_code, wrong.output.count("\n")) == (2, 1)
    assert "did you mean 'max_memory_size'" in wrong.output
    assert run_cli("run", "--config", "missing.json").exit_code == 2
    assert run_cli("stats", LETTA_BRIDGE_CONFIG="missing.json").exit_code == 2


def test_a_key_that_cannot_be_sent_is_one_sentence_and_exit_2(run_cli: Any) -> None:
    wrong = run_cli("run", OPENAI_API_KEY="sk-键")
    assert (wrong.exit_code, wrong.output.count("\n")) == (2, 1)
    assert "memory.answer.api_key (from OPENAI_API_KEY)" in wrong.output
    assert "键" not in wrong.output


def test_stats_without_redis_is_exit_4(run_cli: Any) -> None:
    away = run_cli("stats", REDIS_URL="redis://127.0.0.1:1")
    assert away.exit_code == 4
    assert "Redis at 127.0.0.1:1 cannot be reached: no program listens there" in away.output
