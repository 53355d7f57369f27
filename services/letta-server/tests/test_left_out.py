"""Packages that are left out: what letta-server says of each, and that the lock and the modules are what it thinks."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from importlib.resources import files

import pytest

from letta_server import left_out
from letta_server.left_out import explain, missing, summary
from local_stack.programs import CHECKOUT


@pytest.fixture
def finders() -> Iterator[None]:
    """Finders and modules as they were, afterwards."""
    path, markitdown = list(sys.meta_path), sys.modules.pop("markitdown", None)
    yield
    sys.meta_path[:] = path
    sys.modules.pop("markitdown", None)
    if markitdown is not None:
        sys.modules["markitdown"] = markitdown


@pytest.mark.usefixtures("finders")
def test_the_import_of_a_missing_module_says_what_to_install() -> None:
    explain({"no_such_module": "traces on the moon"})
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("no_such_module")
    assert caught.value.name == "no_such_module"
    assert str(caught.value) == (
        "letta-server is installed without the module no_such_module, which Letta needs for traces on the moon; "
        "install all packages of services/letta-server/requirements.lock (LETTA_SERVER_PACKAGES=all)."
    )
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'another_one'$"):
        importlib.import_module("another_one")


@pytest.mark.usefixtures("finders")
def test_the_class_that_letta_imports_at_its_start_fails_when_it_is_used() -> None:
    explain({"markitdown": "reading the text of files"})
    imported = importlib.import_module("markitdown")
    with pytest.raises(ModuleNotFoundError, match="without the module markitdown, which Letta needs for reading"):
        imported.MarkItDown(enable_plugins=False)


@pytest.mark.usefixtures("finders")
def test_with_all_packages_nothing_is_replaced() -> None:
    before = list(sys.modules)
    explain({})
    assert [name for name in sys.modules if name not in before] == []


def test_a_module_is_missing_until_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "temporalio" else object())
    assert missing() == {"temporalio": "runs in Temporal"}


def test_the_summary_names_each_use_once_and_the_remedy() -> None:
    said = summary({"a": "the tool b", "c": "the tool b", "d": "files", "e": "nothing while it serves"})
    assert said.startswith("packages for files, the tool b are not installed")
    assert "LETTA_SERVER_PACKAGES=all" in said


def test_every_package_left_out_is_in_the_lock() -> None:
    lock = (CHECKOUT / "services/letta-server/requirements.lock").read_text("utf-8")
    packages = tomllib.loads(files(left_out.__package__).joinpath("left_out.toml").read_text("utf-8"))
    for name, package in packages.items():
        assert f"\n{name}==" in lock
        assert package.keys() == {"modules", "serves"}
