"""Every former name of a setting counts for one release: in files, as variables, and told to whoever uses it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from letta_bridge import config_layout
from letta_bridge.settings import BridgeSettings
from memory_service.config_layout import LAYOUT
from memory_service.settings import ServiceSettings
from shared_utils.config.deprecations import sentences
from shared_utils.config.layout import Layout, Rename
from shared_utils.config.settings import Loaded, load
from shared_utils.config.variables import Leaf, leaves
from shared_utils.errors import SettingsError

FORMER_CONFIG = Path(__file__).with_name("former_config.json")
"""The config.json of the release before the new names, unchanged."""
SERVICES = ((BridgeSettings, config_layout.LAYOUT), (ServiceSettings, LAYOUT))


@dataclass(frozen=True)
class Case:
    """A former name that one of the services reads."""

    model: type[BaseModel]
    layout: Layout
    rename: Rename
    leaf: Leaf

    @property
    def value(self) -> Any:
        """A value the setting may have, and does not have by default."""
        default = self.leaf.field.default
        if isinstance(default, bool):
            return not default
        return default + 1 if isinstance(default, int | float) else "elsewhere"

    def at(self, path: str, value: Any) -> dict[str, Any]:
        *sections, name = path.split(".")
        content = {name: value}
        for section in reversed(sections):
            content = {section: content}
        return content

    def read(self, config: Path | None = None, **environ: str) -> Loaded[Any]:
        return load(self.model, self.layout, config=config, environ=environ)

    def of(self, loaded: Loaded[Any]) -> Any:
        found = loaded.settings
        for name in self.rename.new.split("."):
            found = getattr(found, name)
        return found


CASES = [
    Case(model, layout, rename, {leaf.path: leaf for leaf in leaves(model)}[rename.new])
    for model, layout in SERVICES
    for rename in layout.renames
]
VARIABLES = [(case, name) for case in CASES for name in case.layout.former[case.rename.new]]


@pytest.fixture(params=CASES, ids=lambda case: f"{case.model.__name__}-{case.rename.old}")
def case(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("name", ["config.json", "config.local.json"])
def test_a_file_may_use_the_former_name(case: Any, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(case.at(case.rename.old, case.value)))
    loaded = case.read(tmp_path / "config.json")
    assert case.of(loaded) == case.value
    assert loaded.origins[case.rename.new] == f"{tmp_path / name}, as {case.rename.old}"
    ((source, names, sentence),) = sentences(loaded.deprecated)
    assert (source, names) == (str(tmp_path / name), {case.rename.old: case.rename.new})
    assert f"{case.rename.old} is {case.rename.new} now" in sentence


@pytest.mark.parametrize(("case", "name"), VARIABLES, ids=lambda value: getattr(value, "model", str(value)))
def test_the_environment_may_use_the_former_name(case: Any, name: str, tmp_path: Path) -> None:
    loaded = case.read(**{name: str(case.value)})
    assert case.of(loaded) == case.value
    assert loaded.origins[case.rename.new] == name
    ((source, names, _),) = sentences(loaded.deprecated)
    assert source == "the environment"
    assert names.keys() == {name}
    # The variable that is named instead sets it, too, and nothing is deprecated then.
    again = case.read(**dict.fromkeys(names.values(), str(case.value)))
    assert (case.of(again), again.deprecated) == (case.value, ())
    file = tmp_path / "value"
    file.write_text(f"{case.value}\n")
    loaded = case.read(**{f"{name}_FILE": str(file)})
    assert case.of(loaded) == case.value
    (used,) = loaded.deprecated
    assert used.new.endswith("_FILE")


def test_both_names_with_one_value_are_no_error(case: Any, tmp_path: Path) -> None:
    content = case.at(case.rename.old, case.value)
    for section, settings in case.at(case.rename.new, case.value).items():
        content[section] = {**content.get(section, {}), **settings}
    if "." in case.rename.new.partition(".")[2] and case.rename.old.split(".")[:2] == case.rename.new.split(".")[:2]:
        section, inner = case.rename.new.split(".")[:2]
        names = [path.rpartition(".")[2] for path in (case.rename.old, case.rename.new)]
        content = {section: {inner: dict.fromkeys(names, case.value)}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    new, old = case.leaf.variables(case.layout)[0], case.layout.former[case.rename.new][0]
    loaded = case.read(tmp_path / "config.json", **{new: str(case.value), old: f" {case.value}"})
    assert case.of(loaded) == case.value
    assert [used.old for used in loaded.deprecated] == [case.rename.old, old]


def test_both_names_with_different_values_are_refused_in_the_environment(case: Any) -> None:
    new, old = case.leaf.variables(case.layout)[0], case.layout.former[case.rename.new][0]
    with pytest.raises(SettingsError) as caught:
        case.read(**{new: str(case.leaf.field.default), old: str(case.value)})
    assert str(caught.value) == f"the environment gives {new} and its former name {old} different values; unset {old}"


@pytest.mark.parametrize(
    "content",
    [
        {"queue": {"lease": 5, "lease_seconds": 6}},
        {"guards": {"user_tokens": {"soft": 5}}, "limits": {"user_tokens": {"soft": 6}}},
        {"bridge": {"data_dir": "a"}, "storage": {"data_dir": "b"}},
    ],
    ids=str,
)
def test_both_names_with_different_values_are_refused_in_a_file(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SettingsError, match=r"gives [\w.]+ and its former name [\w.]+ different values; remove"):
        load(BridgeSettings, config_layout.LAYOUT, config=path, environ={})


def test_a_file_with_the_present_name_wins_over_an_earlier_one_with_the_former(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"queue": {"lease": 5}}')
    (tmp_path / "config.local.json").write_text('{"queue": {"lease_seconds": 6}}')
    loaded = load(BridgeSettings, config_layout.LAYOUT, config=tmp_path / "config.json", environ={})
    assert loaded.settings.queue.lease_seconds == 6
    assert loaded.origins["queue.lease_seconds"] == str(tmp_path / "config.local.json")
    (tmp_path / "config.json").write_text('{"queue": {"lease_seconds": 5}}')
    (tmp_path / "config.local.json").write_text('{"queue": {"lease": 6}}')
    loaded = load(BridgeSettings, config_layout.LAYOUT, config=tmp_path / "config.json", environ={"LEASE_SECONDS": "7"})
    assert (loaded.settings.queue.lease_seconds, loaded.origins["queue.lease_seconds"]) == (7, "LEASE_SECONDS")
    assert [used.old for used in loaded.deprecated] == ["queue.lease"]


@pytest.mark.parametrize(("model", "layout"), SERVICES)
def test_the_former_config_file_counts_unchanged(model: Any, layout: Any) -> None:
    loaded = load(model, layout, config=FORMER_CONFIG, environ={})
    expected = model().model_dump()
    if "memory" in expected:
        expected["memory"]["recall"]["min_score"] = 0.2  # the default of that file's release
    assert loaded.settings.model_dump() == expected
    ((source, names, _),) = sentences(loaded.deprecated)
    assert source == str(FORMER_CONFIG)
    later = {"letta.run_lifetime"}  # it came after that file
    assert names == {rename.old: rename.new for rename in layout.renames if rename.old not in later}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"guards": {"burts": 1}}, "unknown key guards.burts (from {path}); did you mean 'guards.burst'?"),
        ({"guards": {"user_tokens": 3}}, "unknown key guards.user_tokens (from {path}); did you mean"),
        ({"guards": 3}, "{path}: 'guards' must be a JSON object"),
        ({"guards": {"burst": 1}, "limits": 3}, "{path}: 'limits' must be a JSON object"),
        ({"queue": {"lease": 0}}, "queue.lease_seconds (from {path}, as queue.lease) is wrong"),
        ({"queue": {"leas": 1}}, "unknown key queue.leas (from {path})"),
    ],
    ids=str,
)
def test_a_wrong_former_setting_is_refused_by_the_name_it_has_in_the_file(
    content: str, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SettingsError) as caught:
        load(BridgeSettings, config_layout.LAYOUT, config=path, environ={})
    assert sentence.replace("{path}", str(path)) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LETTA_BRIDGE_GUARDS_BURTS", "LETTA_BRIDGE_LIMITS_BURST"),
        ("LETTA_TIMOUT", "LETTA_TIMEOUT_SECONDS"),
        ("LETTA_TIMEOUT_SECOND", "LETTA_TIMEOUT_SECONDS"),
    ],
)
def test_a_slip_in_a_former_variable_is_refused_by_its_service_alone(name: str, meant: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(BridgeSettings, config_layout.LAYOUT, config=None, environ={name: "4"})
    assert str(caught.value) == f"the environment has an unknown variable {name}; did you mean {meant}?"
    assert load(ServiceSettings, LAYOUT, config=None, environ={name: "4"}).deprecated == ()


def test_the_services_leave_each_others_former_names_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"guards": {"burst": 3}, "memory": {"lease": 20}, "queue": {"lease": 20}}')
    variables = {name: str(case.value) for case, name in VARIABLES if case.model is BridgeSettings}
    variables |= {name: str(case.value) for case, name in VARIABLES if case.model is ServiceSettings}
    for model, layout in SERVICES:
        loaded = load(model, layout, config=tmp_path / "config.json", environ=variables)
        assert {used.new for used in loaded.deprecated if used.source != "the environment"} <= {
            rename.new for rename in layout.renames
        }


@pytest.mark.parametrize(("model", "layout"), SERVICES)
def test_variables_of_one_service_are_ignored_by_the_other(model: Any, layout: Any) -> None:
    names = {name for other, its in SERVICES for leaf in leaves(other) for name in leaf.variables(its)}
    load(model, layout, config=None, environ=dict.fromkeys(names, ""))


def test_every_former_name_is_gone_and_every_present_one_is_there() -> None:
    present = {leaf.path for model, _ in SERVICES for leaf in leaves(model)}
    for _, layout in SERVICES:
        for rename in layout.renames:
            assert rename.old not in present
            assert rename.new in present


def test_every_duration_and_size_names_its_unit() -> None:
    """Names that another interface fixes are left as they are."""
    units = ("_seconds", "_hours", "_days", "_bytes", "_megabytes", "_characters", "_tokens")
    for model, _ in SERVICES:
        for leaf in leaves(model):
            doc = (leaf.field.description or "").lower()
            if doc.startswith(("seconds ", "hours ", "days ", "bytes ", "megabytes ", "size of ")):
                fixed = {"database.connection_timeout", "database.query_timeout"}
                assert leaf.path.endswith(units) or leaf.path in fixed, leaf.path
