"""Session settings that statements and their results depend on, with the values this project's SQL is written for.

An operator may set any of them for a server, a role or a database, and a pooler may leave a former client's behind. So
a connection of this project's own fixes them once, and one that a pooler shares with others in every transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

RELIED_ON: Final[Mapping[str, str]] = MappingProxyType(
    {
        # How values are read and written as text.
        "client_encoding": "UTF8",
        "DateStyle": "ISO, YMD",
        "IntervalStyle": "postgres",
        "TimeZone": "UTC",
        "bytea_output": "hex",
        "extra_float_digits": "3",
        "array_nulls": "on",  # off makes the text 'NULL' of a missing value in an array
        "standard_conforming_strings": "on",  # off makes libpq double the backslashes of bytea parameters
        "quote_all_identifiers": "off",
        # What a statement means, and how much it finds.
        "transform_null_equals": "off",
        "gin_fuzzy_search_limit": "0",
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
    }
)
"""Setting → value, of both products."""
LIMITS: Final = ("statement_timeout", "idle_in_transaction_session_timeout")
"""Limits in milliseconds that both products have; 0 is none."""

OF_SESSIONS: Final = frozenset(
    {"default_transaction_isolation", "default_transaction_deferrable", "idle_session_timeout", "session_timeout"}
)
"""Those that mean nothing within a transaction."""


def literal(value: str) -> str:
    """A value as SQL; without a backslash, which means different things to different settings."""
    if "\\" in value:
        raise ValueError("a setting's value must not hold a backslash")
    return "'" + value.replace("'", "''") + "'"


def for_session(settings: Mapping[str, str]) -> str:
    """One query string that sets them until the connection ends.

    Args:
        settings: name → value as SQL.
    """
    return "; ".join(f"SET {name} TO {value}" for name, value in settings.items())


def for_this_transaction(settings: Mapping[str, str]) -> str:
    """One query string that sets them until the transaction ends that it is sent in.

    Args:
        settings: name → value as SQL. What means nothing within a transaction is left out.
    """
    return "; ".join(f"SET LOCAL {name} TO {value}" for name, value in settings.items() if name not in OF_SESSIONS)


def for_transaction(settings: Mapping[str, str], *, snapshot: bool = False) -> str:
    """One query string that begins a transaction and sets them until it ends.

    Whether it may write is left to the default: a database that is read only is so by an operator's decision.

    Args:
        settings: see :func:`for_this_transaction`.
        snapshot: every statement sees one state of the database.
    """
    begin = f"BEGIN ISOLATION LEVEL {'REPEATABLE READ' if snapshot else 'READ COMMITTED'}"
    local = for_this_transaction(settings)
    return f"{begin}; {local}" if local else begin
