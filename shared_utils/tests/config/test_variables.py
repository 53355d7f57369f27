"""Which variable sets what, and which one is a slip of the pen."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, SecretStr

from shared_utils.config.settings import Section, load, setting
from shared_utils.config.variables import leaves
from shared_utils.errors import SettingsError


class Inner(Section):
    size: int = setting(1, doc="a nested leaf", reload=True)


class Letta(Section):
    timeout: float = setting(60.0, "LETTA_TIMEOUT", doc="a number")
    api_key: SecretStr | None = setting(None, "LETTA_API_KEY", doc="a secret")
    routing: dict[str, str] = setting({"x": "here"}, doc="a table")
    inner: Inner = Inner()


class Settings(BaseModel):
    letta: Letta = Letta()


def read(**environ):
    return load(Settings, config=None, environ=environ)


def refusal(**environ):
    with pytest.raises(SettingsError) as caught:
        read(**environ)
    return str(caught.value)


def test_every_setting_has_a_variable_by_its_path():
    loaded = read(LETTA_BRIDGE_LETTA_TIMEOUT="5", LETTA_BRIDGE_LETTA_INNER_SIZE="2")
    assert (loaded.settings.letta.timeout, loaded.settings.letta.inner.size) == (5, 2)
    assert loaded.origins == {
        "letta.timeout": "LETTA_BRIDGE_LETTA_TIMEOUT",
        "letta.inner.size": "LETTA_BRIDGE_LETTA_INNER_SIZE",
    }


def test_the_variable_by_path_wins_over_the_short_one():
    assert read(LETTA_TIMEOUT="1", LETTA_BRIDGE_LETTA_TIMEOUT="2").settings.letta.timeout == 2


def test_the_variable_by_path_may_be_a_file_too(tmp_path):
    (tmp_path / "key").write_text("hunter2\n")
    loaded = read(LETTA_BRIDGE_LETTA_API_KEY_FILE=str(tmp_path / "key"))
    assert loaded.settings.letta.api_key.get_secret_value() == "hunter2"
    assert loaded.origins == {"letta.api_key": "LETTA_BRIDGE_LETTA_API_KEY_FILE"}


def test_a_table_is_a_json_object():
    assert read(LETTA_BRIDGE_LETTA_ROUTING='{"a": "there"}').settings.letta.routing == {"a": "there"}


@pytest.mark.parametrize("text", ["there", "[1]", '{"a":', "[" * 100_000], ids=lambda text: text[:5])
def test_a_table_that_is_no_json_object_is_refused(text):
    assert refusal(LETTA_BRIDGE_LETTA_ROUTING=text).startswith("LETTA_BRIDGE_LETTA_ROUTING must hold a JSON object")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LETTA_BRIDGE_LETTA_TIMOUT", "LETTA_BRIDGE_LETTA_TIMEOUT"),
        ("LETTA_BRIDGE_LETTA_INNER_SIZES", "LETTA_BRIDGE_LETTA_INNER_SIZE"),
        ("LETTA_BRIDGE_TIMEOUT", "LETTA_BRIDGE_LETTA_TIMEOUT"),
        ("LETTA_BRIDGE_LETTA_API_KEYFILE", "LETTA_BRIDGE_LETTA_API_KEY"),
        ("LETTA_BRIDGE_LETTA_APIKEY_FILE", "LETTA_BRIDGE_LETTA_API_KEY_FILE"),
        ("LETTA_BRIDGE_CONFIGS", "LETTA_BRIDGE_CONFIG"),
        ("LETTA_TIMOUT", "LETTA_TIMEOUT"),
        ("LETTA_APIKEY", "LETTA_API_KEY"),
        ("LETTA_API_KEYS_FILE", "LETTA_API_KEY_FILE"),
    ],
)
def test_an_unknown_variable_is_refused_and_the_nearest_named(name, meant):
    assert refusal(**{name: "1"}) == f"the environment has an unknown variable {name}; did you mean {meant}?"


def test_an_unknown_variable_near_to_none_is_refused_too():
    assert refusal(LETTA_BRIDGE_XYZZY="1") == (
        "the environment has an unknown variable LETTA_BRIDGE_XYZZY; docs/configuration.md lists all that begin so"
    )


def test_an_unknown_variable_is_refused_without_its_value():
    assert "hunter2" not in refusal(LETTA_BRIDGE_XYZZY="hunter2")


@pytest.mark.parametrize(
    "name",
    [
        "LETTA_BRIDGE_CONFIG",
        "LETTA_BRIDGE_MEMORY_BATCH",  # another service's
        "LETTA_PG_URI", "LETTA_PG_PASSWORD_FILE", "LETTA_REDIS_HOST", "LETTA_SERVER_PASSWORD", "LETTA_ENCRYPTION_KEY",
        "LETTA_MEMORY_BACKEND",
        "LETTA_BRIDGE_SERVICE_HOST", "LETTA_BRIDGE_SERVICE_PORT_HTTP",
        "LETTA_BRIDGE_PORT_8290_TCP", "LETTA_BRIDGE_PORT_8290_TCP_ADDR",
        "MEMORY_PRESSURE_WATCH", "MEMORY_LIMIT", "LETTA_SOMETHING_ELSE", "TIMEOUT", "PATH",
    ],
)  # fmt: skip
def test_a_variable_of_somebody_elses_is_left_alone(name):
    assert read(**{name: "1"}).settings == Settings()


def test_what_kubernetes_calls_a_port_is_left_alone_and_what_an_operator_does_is_not():
    assert read(LETTA_BRIDGE_PORT="tcp://10.0.0.7:8290").settings == Settings()
    assert "unknown variable LETTA_BRIDGE_PORT;" in refusal(LETTA_BRIDGE_PORT="8290")


def test_a_leaf_knows_what_it_is():
    by_path = {leaf.path: leaf for leaf in leaves(Settings)}
    assert list(by_path) == ["letta.timeout", "letta.api_key", "letta.routing", "letta.inner.size"]
    assert [path for path, leaf in by_path.items() if leaf.secret] == ["letta.api_key"]
    assert [path for path, leaf in by_path.items() if leaf.table] == ["letta.routing"]
    assert [path for path, leaf in by_path.items() if leaf.reloadable] == ["letta.inner.size"]
