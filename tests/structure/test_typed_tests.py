"""mypy looks at every test: each folder of tests has a link that gives its modules names of their own."""

from __future__ import annotations

import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
LINKS = CHECKOUT / ".mypy"


def test_every_folder_of_tests_has_a_link() -> None:
    folders = {CHECKOUT / "tests"}
    for pattern in ("*/pyproject.toml", "*/*/pyproject.toml"):
        folders |= {path.parent / "tests" for path in CHECKOUT.glob(pattern) if ".venv" not in str(path)}
    assert {link.resolve() for link in LINKS.iterdir()} == {folder for folder in folders if folder.is_dir()}


def test_only_named_test_modules_may_have_untyped_signatures() -> None:
    mypy = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
    [relaxed] = [each["module"] for each in mypy["overrides"] if "disallow_untyped_defs" in each]
    assert mypy["strict"] is True
    assert relaxed == ["letta_bridge_tests.*"]
