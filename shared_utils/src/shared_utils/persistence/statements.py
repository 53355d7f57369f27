"""SQL lives in ``.sql`` files: each statement under a line ``-- name: it``, with psycopg's ``%(name)s`` parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def statements(file: str, package: str = __package__) -> Mapping[str, str]:
    """Name → statement of ``sql/<file>.sql`` in ``package``.

    In a statement, ``{schema}`` stands for the name of the schema that the tables are in, and ``{or_ignore}`` for the
    dialect's way to skip a row whose key is taken. Tables are named with their schema, so that no session setting can
    lead a statement to another program's.

    Raises:
        ValueError: two statements have one name.
    """
    text = resources.files(package).joinpath("sql", f"{file}.sql").read_text("utf-8")
    _, *parts = _NAME.split(text)
    names = parts[::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{file}.sql uses a name twice")
    return MappingProxyType({name: body.strip().rstrip(";") for name, body in zip(names, parts[1::2], strict=True)})
