"""Every file that is made from the code is current."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The script that `./run generate` runs."""
    spec = importlib.util.spec_from_file_location("generate", CHECKOUT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_everything_that_is_generated_is_current(generate: ModuleType) -> None:
    files = generate.generated()
    assert {"config.json", "docs/configuration.md", "docs/performance.md", "docs/sql.md"} <= files.keys()
    assert generate.stale(files) == [], "run: ./run generate"


def test_outdated_generated_files_are_named_and_written(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "CHECKOUT", tmp_path)
    monkeypatch.setattr(generate, "generated", lambda: {"current": "1", "changed": "2", "missing": "3"})
    (tmp_path / "current").write_text("1", encoding="utf-8")
    (tmp_path / "changed").write_text("1", encoding="utf-8")
    generate.main()
    assert capsys.readouterr().out == "wrote changed\nwrote missing\n"
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == generate.generated()


def test_a_default_that_changed_keeps_its_place_in_the_configuration(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    current = generate.generated()["config.json"]
    written = json.loads(current)
    written["redis"], written["gone"] = {"port": -1}, 1
    (tmp_path / "config.json").write_text(json.dumps(written), encoding="utf-8")
    monkeypatch.setattr(generate, "CHECKOUT", tmp_path)
    made = json.loads(generate._config())
    assert made == json.loads(current)
    assert list(made) == list(json.loads(current))
