"""Which variable sets what, and which one is a slip of the pen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from shared_utils.config.layout import Layout
from shared_utils.config.settings import Section, load, setting
from shared_utils.config.variables import leaves
from shared_utils.errors import SettingsError

LAYOUT = Layout(
    prefix="PROGRAM_",
    sections=frozenset({"letta", "memory"}),
    short_beginnings=("LETTA_", "MEMORY_"),
    foreign_beginnings=("LETTA_PG_", "LETTA_REDIS_"),
)


class Inner(Section):
    size: int = setting(1, doc="a nested leaf", reload=True)


class Letta(Section):
    timeout: float = setting(60.0, "LETTA_TIMEOUT", doc="a number")
    api_key: SecretStr | None = setting(None, "LETTA_API_KEY", doc="a secret")
    routing: dict[str, str] = setting({"x": "here"}, doc="a table")
    inner: Inner = Inner()


class Settings(BaseModel):
    letta: Letta = Letta()


def read(**environ: Any) -> Any:
    return load(Settings, LAYOUT, config=None, environ=environ)


def refusal(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(**environ)
    return str(caught.value)


def test_every_setting_has_a_variable_by_its_path() -> None:
    loaded = read(PROGRAM_LETTA_TIMEOUT="5", PROGRAM_LETTA_INNER_SIZE="2")
    assert (loaded.settings.letta.timeout, loaded.settings.letta.inner.size) == (5, 2)
    assert loaded.origins == {
        "letta.timeout": "PROGRAM_LETTA_TIMEOUT",
        "letta.inner.size": "PROGRAM_LETTA_INNER_SIZE",
    }


def test_the_variable_by_path_wins_over_the_short_one() -> None:
    assert read(LETTA_TIMEOUT="1", PROGRAM_LETTA_TIMEOUT="2").settings.letta.timeout == 2


def test_the_variable_by_path_may_be_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2\n")
    loaded = read(PROGRAM_LETTA_API_KEY_FILE=str(tmp_path / "key"))
    assert loaded.settings.letta.api_key.get_secret_value() == "hunter2"
    assert loaded.origins == {"letta.api_key": "PROGRAM_LETTA_API_KEY_FILE"}


def test_a_table_is_a_json_object() -> None:
    assert read(PROGRAM_LETTA_ROUTING='{"a": "there"}').settings.letta.routing == {"a": "there"}


@pytest.mark.parametrize("text", ["there", "[1]", '{"a":', "[" * 100_000], ids=lambda text: text[:5])
def test_a_table_that_is_no_json_object_is_refused(text: str) -> None:
    assert refusal(PROGRAM_LETTA_ROUTING=text).startswith("PROGRAM_LETTA_ROUTING must hold a JSON object")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PROGRAM_LETTA_TIMOUT", "PROGRAM_LETTA_TIMEOUT"),
        ("PROGRAM_LETTA_INNER_SIZES", "PROGRAM_LETTA_INNER_SIZE"),
        ("PROGRAM_TIMEOUT", "PROGRAM_LETTA_TIMEOUT"),
        ("PROGRAM_LETTA_API_KEYFILE", "PROGRAM_LETTA_API_KEY"),
        ("PROGRAM_LETTA_APIKEY_FILE", "PROGRAM_LETTA_API_KEY_FILE"),
        ("PROGRAM_CONFIGS", "PROGRAM_CONFIG"),
        ("LETTA_TIMOUT", "LETTA_TIMEOUT"),
        ("LETTA_APIKEY", "LETTA_API_KEY"),
        ("LETTA_API_KEYS_FILE", "LETTA_API_KEY_FILE"),
    ],
)
def test_an_unknown_variable_is_refused_and_the_nearest_named(name: str, meant: str) -> None:
    assert refusal(**{name: "1"}) == f"the environment has an unknown variable {name}; did you mean {meant}?"


def test_an_unknown_variable_near_to_none_is_refused_too() -> None:
    assert refusal(PROGRAM_XYZZY="1") == (
        "the environment has an unknown variable PROGRAM_XYZZY; docs/configuration.md lists all variables with "
        "this prefix"
    )


def test_an_unknown_variable_is_refused_without_its_value() -> None:
    assert "hunter2" not in refusal(PROGRAM_XYZZY="hunter2")


@pytest.mark.parametrize(
    "name",
    [
        "PROGRAM_CONFIG",
        "PROGRAM_MEMORY_BATCH",  # another service's
        "LETTA_PG_URI", "LETTA_PG_PASSWORD_FILE", "LETTA_REDIS_HOST", "LETTA_SERVER_PASSWORD", "LETTA_ENCRYPTION_KEY",
        "LETTA_MEMORY_BACKEND",
        "PROGRAM_SERVICE_HOST", "PROGRAM_SERVICE_PORT_HTTP",
        "PROGRAM_PORT_8290_TCP", "PROGRAM_PORT_8290_TCP_ADDR",
        "MEMORY_PRESSURE_WATCH", "MEMORY_LIMIT", "LETTA_SOMETHING_ELSE", "TIMEOUT", "PATH",
    ],
)  # fmt: skip
def test_variables_of_other_programs_are_ignored(name: Any) -> None:
    assert read(**{name: "1"}).settings == Settings()


def test_kubernetes_port_variable_is_ignored_and_an_operators_is_not() -> None:
    assert read(PROGRAM_PORT="tcp://10.0.0.7:8290").settings == Settings()
    assert "unknown variable PROGRAM_PORT;" in refusal(PROGRAM_PORT="8290")


def test_leaf_describes_its_setting() -> None:
    by_path = {leaf.path: leaf for leaf in leaves(Settings)}
    assert list(by_path) == ["letta.timeout", "letta.api_key", "letta.routing", "letta.inner.size"]
    assert [path for path, leaf in by_path.items() if leaf.secret] == ["letta.api_key"]
    assert [path for path, leaf in by_path.items() if leaf.table] == ["letta.routing"]
    assert [path for path, leaf in by_path.items() if leaf.reloadable] == ["letta.inner.size"]
