"""Settings under former names: which values mean the same, and which names the operator is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, SecretStr

from shared_utils.config.layout import Layout, Rename
from shared_utils.config.settings import Section, TextList, load, setting
from shared_utils.errors import SettingsError

LAYOUT = Layout(
    prefix="PROGRAM_",
    sections=frozenset({"new"}),
    former_sections=frozenset({"old"}),
    renames=(
        Rename("old.key", "new.key", ("OLD_KEY", "OLDER_KEY")),
        Rename("old.name", "new.name", ("OLD_NAME",)),
        Rename("old.folder", "new.folder", ("OLD_FOLDER",)),
        Rename("old.seconds", "new.seconds", ("OLD_SECONDS",)),
        Rename("old.on", "new.on", ("OLD_ON",)),
        Rename("old.level", "new.level", ("OLD_LEVEL",)),
        Rename("old.words", "new.words", ("OLD_WORDS",)),
    ),
)


class New(Section):
    key: SecretStr | None = setting(None, "NEW_KEY", doc="a secret")
    name: str = setting("", "NEW_NAME", doc="a text")
    folder: Path = setting(Path(), "NEW_FOLDER", doc="a path")
    seconds: float = setting(1.0, "NEW_SECONDS", doc="a number")
    on: bool = setting(False, "NEW_ON", doc="a switch")
    level: Literal["info", "error"] = setting("info", "NEW_LEVEL", doc="a choice")
    words: TextList = setting((), "NEW_WORDS", doc="a list")


class Settings(BaseModel):
    new: New = New()


EQUAL = [
    ("seconds", "30", "30.0"),
    ("seconds", "1e2", " 100"),
    ("on", "true", "YES"),
    ("level", "Error", "ERROR"),
    ("words", "a,b", "a, b"),
    ("name", "x", "x "),
]
DIFFERENT = [
    ("key", "Hunter2", "hunter2"),
    ("key", "007", "7"),
    ("key", "x", "x "),
    ("name", "http://host/A", "http://host/a"),
    ("name", "1e3", "1000"),
    ("folder", "/data/A", "/data/a"),
    ("words", "a", "A"),
    ("on", "true", "false"),
    ("seconds", "30", "thirty"),
]


def read(config: Any = None, **environ: Any) -> Any:
    return load(Settings, LAYOUT, config=config, environ=environ)


@pytest.mark.parametrize(("name", "new", "old"), EQUAL)
def test_values_that_mean_the_same_may_stand_under_both_names(tmp_path: Path, name: Any, new: Any, old: Any) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"new": {name: new}, "old": {name: old}}), encoding="utf-8")
    from_environment = read(**{f"NEW_{name.upper()}": new, f"OLD_{name.upper()}": old})
    assert [one.old for one in from_environment.deprecated] == [f"OLD_{name.upper()}"]
    assert getattr(read(file).settings.new, name) == getattr(from_environment.settings.new, name)


@pytest.mark.parametrize(("name", "new", "old"), DIFFERENT)
def test_values_that_differ_in_what_counts_for_the_setting_are_refused(
    tmp_path: Path, name: Any, new: Any, old: Any
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"new": {name: new}, "old": {name: old}}), encoding="utf-8")
    with pytest.raises(SettingsError, match=f"new.{name} and its former name old.{name} different values"):
        read(file)
    with pytest.raises(SettingsError, match=f"NEW_{name.upper()} and its former name OLD_{name.upper()}") as refusal:
        read(**{f"NEW_{name.upper()}": new, f"OLD_{name.upper()}": old})
    assert "unter2" not in str(refusal.value)


def test_two_former_variables_of_one_setting_are_both_named() -> None:
    used = read(OLD_KEY="k", OLDER_KEY="k", PROGRAM_OLD_KEY="k").deprecated
    assert {one.old: one.new for one in used} == {
        "OLD_KEY": "NEW_KEY",
        "OLDER_KEY": "NEW_KEY",
        "PROGRAM_OLD_KEY": "PROGRAM_NEW_KEY",
    }


def test_two_former_variables_with_different_values_are_refused() -> None:
    with pytest.raises(SettingsError, match="OLD_KEY and OLDER_KEY different values, and both are former names of NEW"):
        read(OLD_KEY="k", OLDER_KEY="K")


def test_a_former_variable_and_the_file_of_another_one_are_both_named(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k\n", encoding="utf-8")
    used = read(OLD_KEY_FILE=str(tmp_path / "key"), OLDER_KEY="k").deprecated
    assert {one.old for one in used} == {"OLD_KEY_FILE", "OLDER_KEY"}


def test_layout_maps_former_names_sections_and_variables_to_present_ones() -> None:
    assert LAYOUT.moved("old.key") == {"old.key": "new.key"}
    assert LAYOUT.moved("old") == {rename.old: rename.new for rename in LAYOUT.renames}
    assert LAYOUT.moved("OLDER_KEY") == {"OLDER_KEY": "new.key"}
    assert LAYOUT.moved("ol") == {}
