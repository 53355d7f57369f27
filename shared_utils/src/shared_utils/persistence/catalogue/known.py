"""Which statements there are: those in ``.sql`` files, and those composed from the models of the repositories."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, get_args

from shared_utils.persistence.conversations.records import CONVERSATIONS, MESSAGES
from shared_utils.persistence.dialects import OpenGauss, PostgreSQL
from shared_utils.persistence.repositories.conditions import Comparison, Where, condition
from shared_utils.persistence.repositories.table import Table
from shared_utils.persistence.statements import statements

TABLES: Final[Sequence[Table[Any]]] = (CONVERSATIONS, MESSAGES)
"""Those with a repository."""
OR_IGNORE: Final = {"PostgreSQL": PostgreSQL((16,)).or_ignore, "openGauss": OpenGauss((6, 0, 0)).or_ignore}
"""Product → what ``{or_ignore}`` stands for there."""

_COMPARISONS: Final[Sequence[Comparison]] = get_args(Comparison)
_PERSISTENCE: Final = Path(__file__).parents[1]
_GAP: Final = re.compile(r"\{\w+\}")


def named() -> Mapping[str, Mapping[str, str]]:
    """File → name → statement, of every ``sql`` folder in the persistence package.

    A file whose first line says that it is for SQLite is left out.
    """
    found = {}
    for path in sorted(_PERSISTENCE.rglob("sql/*.sql")):
        if "SQLite" in path.read_text(encoding="utf-8").partition("\n")[0]:
            continue
        folder = path.parent.parent.relative_to(_PERSISTENCE)
        package = ".".join(("shared_utils.persistence", *folder.parts))
        found[str(path.relative_to(_PERSISTENCE))] = statements(path.stem, package)
    return found


def fixed(table: Table[Any]) -> Mapping[str, str]:
    """What a repository of this table sends whatever it is asked, by what it is for."""
    return {
        "get, find": table.select,
        "exists": table.exists,
        "add": table.insert,
        "bulk_create": table.insert_all,
        "bulk_create, ignoring existing": table.insert_new,
        "update": table.update,
        "update, where the row is as expected": table.update_expected,
        "modify": table.select_locked,
        "delete": table.delete,
        "count": table.count(),
        "list": table.page(),
        "list, newest first": table.page(newest_first=True),
    }


def conditions(table: Table[Any]) -> Iterator[str]:
    """What ``filter`` and ``count`` may put between WHERE and AND; a parameter ``where_n`` is the n-th condition's."""
    for column, kind in table.columns.items():
        if kind != "jsonb":
            for where in (*(Where(column, comparison, ()) for comparison in _COMPARISONS), *_missing(column)):
                yield condition(where, table, "where_n")
    yield table.beyond()
    yield table.beyond(newest_first=True)


def _missing(column: str) -> Sequence[Where]:
    return (Where(column, "=", None), Where(column, "!=", None))


def known(statement: str) -> bool:
    """Whether a statement, as it was sent, is in the catalogue; white space does not count."""
    text = _flat(statement)
    return any(pattern.fullmatch(text) for pattern in _patterns())


@cache
def _patterns() -> Sequence[re.Pattern[str]]:
    texts = [text for file in named().values() for text in file.values()]
    texts += [text for table in TABLES for text in fixed(table).values()]
    return [re.compile(_as_pattern(text)) for text in texts] + [
        re.compile(pattern) for table in TABLES for pattern in _conditional(table)
    ]


def _as_pattern(text: str) -> str:
    parts = _GAP.split(_flat(text))
    gaps = (_gap(gap) for gap in _GAP.findall(text))
    return re.escape(parts[0]) + "".join(gap + re.escape(part) for gap, part in zip(gaps, parts[1:], strict=True))


def _gap(gap: str) -> str:
    """What may stand where a statement has a gap."""
    return "|".join(map(re.escape, OR_IGNORE.values())).join(("(?:", ")")) if gap == "{or_ignore}" else ".+?"


def _conditional(table: Table[Any]) -> Iterator[str]:
    one = "|".join(re.escape(text).replace("where_n", r"where_\d+") for text in conditions(table)).join(("(?:", ")"))
    for text in (table.page(), table.page(newest_first=True), table.count()):
        before, order, after = text.partition(" ORDER BY ")
        yield f"{_as_pattern(before)} WHERE {one}(?: AND {one})*{re.escape(order + after)}"


def _flat(text: str) -> str:
    return " ".join(text.split())
