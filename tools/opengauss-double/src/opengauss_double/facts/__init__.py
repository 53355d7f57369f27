"""Facts about openGauss, as data."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def table(name: str) -> dict[str, Any]:
    """One of the TOML files beside this module, by its stem."""
    return tomllib.loads((files(__package__) / f"{name}.toml").read_text(encoding="utf-8"))
