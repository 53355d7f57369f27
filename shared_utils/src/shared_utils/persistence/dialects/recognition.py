"""Recognises the server by ``version()``, because openGauss reports 9.2.4 everywhere else."""

from __future__ import annotations

import re
from typing import Final

from shared_utils.persistence.dialects.dialect import Dialect
from shared_utils.persistence.dialects.opengauss import OpenGauss
from shared_utils.persistence.dialects.postgresql import PostgreSQL
from shared_utils.persistence.errors import UnfitDatabase

_OPENGAUSS: Final = re.compile(r"openGauss(?:-lite)? (\d+)\.(\d+)\.(\d+)")
_POSTGRESQL: Final = re.compile(r"PostgreSQL (\d+)(?:\.(\d+))?")
_OLDEST_OPENGAUSS: Final = (5, 0, 0)
_OLDEST_POSTGRESQL: Final = (15,)


def recognise(version: str) -> Dialect:
    """The dialect of a server.

    Args:
        version: what ``SELECT version()`` says.

    Raises:
        UnfitDatabase: it is neither of the two, or too old.
    """
    dialect: Dialect
    oldest: tuple[int, ...]
    if found := _OPENGAUSS.search(version):
        dialect, oldest = OpenGauss(_numbers(found)), _OLDEST_OPENGAUSS
    elif found := _POSTGRESQL.match(version):
        dialect, oldest = PostgreSQL(_numbers(found)), _OLDEST_POSTGRESQL
    else:
        raise UnfitDatabase(f"the server is {version[:60]!r}; use a PostgreSQL >= 15 or an openGauss >= 5.0")
    if dialect.version < oldest:
        raise UnfitDatabase(
            f"{dialect.product} is too old: this service needs {'.'.join(map(str, oldest))} or newer; upgrade the "
            "server, or use another one"
        )
    return dialect


def _numbers(found: re.Match[str]) -> tuple[int, ...]:
    return tuple(int(number) for number in found.groups() if number is not None)
