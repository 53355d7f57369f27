"""The bridge's own settings: the defaults in config.json, and what an operator may not ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from letta_bridge.settings import MEMORY_TOOLS, BridgeSettings, read_settings
from shared_utils.contracts.message_fields import ANONYMOUS
from shared_utils.errors import SettingsError
from shared_utils.persistence.vectors.settings import vector_database

CONFIG = Path(__file__).parents[3] / "config.json"


def settings_of(content: dict[str, Any], tmp_path: Path, **environ: str) -> Any:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return read_settings(path, environ=environ).settings


@pytest.mark.skipif(not CONFIG.exists(), reason="config.json is in the checkout, not in the package")
def test_config_json_holds_the_defaults() -> None:
    content = json.loads(CONFIG.read_text(encoding="utf-8"))
    sections = {name: section for name, section in content.items() if name in BridgeSettings.model_fields}
    assert BridgeSettings.model_validate(sections) == BridgeSettings()


@pytest.mark.skipif(not CONFIG.exists(), reason="config.json is in the checkout, not in the package")
def test_config_json_contains_every_default_except_secrets_and_empty_values() -> None:
    content = json.loads(CONFIG.read_text(encoding="utf-8"))
    defaults = BridgeSettings().model_dump(mode="json", exclude_none=True)
    assert {name: content[name] for name in defaults} == defaults


def test_the_file_is_named_by_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"bridge": {"port": 7}}', encoding="utf-8")
    assert read_settings(environ={"LETTA_BRIDGE_CONFIG": str(path)}).settings.bridge.port == 7


def test_the_file_is_looked_for_here_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_settings(environ={}).settings == BridgeSettings()
    Path("config.json").write_text('{"bridge": {"port": 7}}', encoding="utf-8")
    assert read_settings(environ={}).settings.bridge.port == 7


@pytest.mark.parametrize("tools", [[], ["memory_insert"], list(MEMORY_TOOLS)])
def test_an_agent_may_have_any_memory_tools(tmp_path: Any, tools: Any) -> None:
    assert settings_of({"agents": {"tools": tools}}, tmp_path).agents.tools == tuple(tools)


@pytest.mark.parametrize("tool", ["run_code", "send_message", "web_search", "fetch_webpage", "Memory_insert", ""])
def test_an_agent_may_have_no_other_tools(tmp_path: Path, tool: str) -> None:
    with pytest.raises(SettingsError, match=r"agents\.tools \(from .*\) is wrong: .* may only have memory_insert"):
        settings_of({"agents": {"tools": ["memory_insert", tool]}}, tmp_path)


def test_one_persona_is_the_default(tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match=r"agents\.personas \(from .*\) is wrong: one named 'default' is needed"):
        settings_of({"agents": {"personas": {"luna": {"human": {"en": ""}}}}}, tmp_path)
    personas = settings_of({"agents": {"personas": {"default": {}, "luna": {}}}}, tmp_path).agents.personas
    assert set(personas) == {"default", "luna"}


def test_several_letta_servers_come_comma_separated(tmp_path: Any) -> None:
    letta = settings_of({}, tmp_path, LETTA_API_URL="http://a:8283, http://b:8283").letta
    assert letta.api_urls == ("http://a:8283", "http://b:8283")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"letta": {"api_urls": []}}, "letta.api_urls"),
        ({"letta": {"memory_type_routing": {"permanent": "memory"}}}, "letta.memory_type_routing.permanent"),
        ({"letta": {"breaker": {"failures": 0}}}, "letta.breaker.failures"),
        ({"queue": {"requests": "with {braces}"}}, "queue.requests"),
        ({"queue": {"requests": ""}}, "queue.requests"),
        ({"queue": {"max_concurrent_requests": 0}}, "queue.max_concurrent_requests"),
        ({"queue": {"max_id_length": len(ANONYMOUS) - 1}}, "queue.max_id_length"),
        ({"bridge": {"port": 65536}}, "bridge.port"),
    ],
)
def test_a_value_that_cannot_work_is_refused(tmp_path: Path, content: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=f"the setting {named} "):
        settings_of(content, tmp_path)


@pytest.mark.parametrize(("text", "value"), [("false", False), ("0", False), ("off", False), ("true", True)])
def test_a_switch_is_set_by_a_word(tmp_path: Any, text: Any, value: Any) -> None:
    assert settings_of({}, tmp_path, LETTA_ENABLED=text).letta.enabled is value


def test_a_file_that_is_named_and_missing_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "typo.json"
    for named, environ in ((missing, {}), (None, {"LETTA_BRIDGE_CONFIG": str(missing)})):
        with pytest.raises(SettingsError, match=r"typo\.json does not exist"):
            read_settings(named, environ=environ)


def test_a_file_that_was_there_at_the_start_is_as_good_as_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_settings(environ={}).config is None
    Path("config.json").write_text('{"limits": {"max_pending_per_user": 5}}', encoding="utf-8")
    first = read_settings(environ={})
    Path("config.json").unlink()
    with pytest.raises(SettingsError, match="does not exist"):
        read_settings(first.config, environ={})


@pytest.mark.parametrize(
    "written", ["secret-key\n", "\ufeffsecret-key", "'secret-key'", "Bearer secret-key", " secret-key "]
)
@pytest.mark.parametrize("name", ["LETTA_API_KEY", "EMBEDDING_API_KEY"])
def test_key_must_be_sendable(tmp_path: Path, name: Any, written: str) -> None:
    settings = settings_of({}, tmp_path, **{name: written})
    key = settings.letta.api_key if name == "LETTA_API_KEY" else settings.embeddings.api_key
    assert key.get_secret_value() == "secret-key"


@pytest.mark.parametrize(("name", "setting"), [("LETTA_API_KEY", "letta"), ("EMBEDDING_API_KEY", "embeddings")])
@pytest.mark.parametrize("key", ["secret-é", "secret-键", "sec\tret"])
def test_a_key_that_cannot_be_sent_is_refused(tmp_path: Path, name: str, setting: str, key: str) -> None:
    with pytest.raises(SettingsError, match=rf"the setting {setting}\.api_key \(from {name}\)") as caught:
        settings_of({}, tmp_path, **{name: key})
    assert key not in str(caught.value)


def test_a_token_for_others_is_trimmed(tmp_path: Any) -> None:
    token = settings_of({}, tmp_path, BRIDGE_API_TOKEN=" a-token-时\n").bridge.api_token
    assert token.get_secret_value() == "a-token-时"


@pytest.mark.parametrize(
    "url",
    ["letta:8283", "http://", "http://h:port", "http://[broken", "ftp://h", "http://a b:1", "http://u:hunter2@h", "h"],
)
def test_an_address_of_letta_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match=r"the setting letta\.api_urls \(from LETTA_API_URL\) is wrong: ") as caught:
        settings_of({}, tmp_path, LETTA_API_URL=f"http://fine:8283,{url}")
    assert "hunter2" not in str(caught.value)


def test_line_ends_and_quotes_around_letta_urls_are_stripped(tmp_path: Any) -> None:
    urls = settings_of({}, tmp_path, LETTA_API_URL="'http://a:8283, http://[::1]:8283'\r\n").letta.api_urls
    assert urls == ("http://a:8283", "http://[::1]:8283")


@pytest.mark.parametrize("port", ["REDIS_PORT", "BRIDGE_HTTP_PORT", "LETTA_BRIDGE_REDIS_PORT"])
def test_a_port_of_kubernetes_is_none_of_ours(tmp_path: Path, port: str) -> None:
    assert settings_of({}, tmp_path, **{port: "tcp://10.96.0.1:6379"}) == BridgeSettings()


def test_a_route_may_be_written_in_capitals(tmp_path: Any) -> None:
    routing = settings_of({"letta": {"memory_type_routing": {"permanent": "LETTA"}}}, tmp_path).letta
    assert routing.memory_type_routing["permanent"] == "letta"


def test_the_state_of_each_tenant_lies_in_a_place_of_its_own(tmp_path: Path) -> None:
    environ = {"DATABASE_URL": "postgresql://h/d", "DATA_DIR": "/data"}
    places = set()
    for tenant in ("", "shop", "bridge"):  # the last one is part of the schema's default name
        found = settings_of({"vectors": {"enabled": True}}, tmp_path, **environ, TENANT=tenant)
        vectors = vector_database(found.vectors, found.database)
        assert vectors.schema_name == found.database.schema_name
        places.add((found.database.schema_name, str(found.session_file)))
    assert places == {
        ("letta_bridge", "/data/sessions.db"),
        ("letta_bridge_shop", "/data/tenant-shop/sessions.db"),
        ("letta_bridge_bridge", "/data/tenant-bridge/sessions.db"),
    }


@pytest.mark.parametrize(("tenant", "schema"), [("Shop", "a"), ("a-b", "a"), ("x" * 31, "a"), ("x" * 30, "y" * 40)])
def test_a_tenant_that_makes_no_schema_is_refused(tmp_path: Path, tenant: str, schema: str) -> None:
    with pytest.raises(SettingsError, match="tenant"):
        settings_of({"database": {"schema_name": schema}}, tmp_path, TENANT=tenant)


def test_vectors_need_the_journals_database(tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match="set DATABASE_URL"):
        settings_of({"vectors": {"enabled": True}}, tmp_path)
    url = "postgresql://bridge@localhost/bridge"
    assert settings_of({"vectors": {"enabled": True}}, tmp_path, DATABASE_URL=url).vectors.enabled
    assert not settings_of({}, tmp_path, DATABASE_URL=url).vectors.enabled


def test_no_variable_sets_two_settings() -> None:
    names = []

    def collect(model: Any) -> None:
        for field in model.model_fields.values():
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                collect(field.annotation)
            else:
                names.extend((field.json_schema_extra or {}).get("env", []))

    collect(BridgeSettings)
    assert len(names) == len(set(names)) > 10


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    settings = settings_of(
        {}, tmp_path, LETTA_API_KEY="hunter2", REDIS_URL="redis://:hunter2@h", REDIS_PASSWORD="hunter2"
    )
    assert "hunter2" not in f"{settings!r} {settings.model_dump_json()}"
    assert settings.letta.api_key.get_secret_value() == "hunter2"


@pytest.mark.parametrize(
    ("requests", "control"),
    [("letta_requests", "letta_control"), ("acme_requests", "{acme_requests}:control"), ("acme", "{acme}:control")],
)
def test_each_request_list_has_a_control_list_of_its_own(tmp_path: Path, requests: str, control: str) -> None:
    assert settings_of({"queue": {"requests": requests}}, tmp_path).queue.control_list == control
    named = settings_of({"queue": {"requests": requests}}, tmp_path, LETTA_CONTROL="stops")
    assert named.queue.control_list == "stops"


@pytest.mark.parametrize("name", ["letta_requests", "user_input_queue"])
def test_interrupts_and_tasks_may_not_share_a_list(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="name another list"):
        settings_of({"queue": {"control": name}}, tmp_path)
