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


def test_mypy_leaves_nothing_out_in_tests() -> None:
    mypy = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
    links = {link.name for link in LINKS.iterdir()}
    assert mypy["strict"] is True
    for override in mypy["overrides"]:
        named = override["module"] if isinstance(override["module"], list) else [override["module"]]
        assert not {name.partition(".")[0] for name in named} & links, override
