"""Statements in openGauss's dialect as the upstream PostgreSQL understands them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from opengauss_double import settings
from opengauss_double.errors import Refusal
from opengauss_double.profiles import Profile
from opengauss_double.statements import Statement
from opengauss_double.tokens import Kind, Token, joined, quoted, rewritten
from opengauss_double.unique_keys import TableLookups
from opengauss_double.upsert import is_upsert, upsert

# Where mode A takes '' for NULL; elsewhere (COPY … NULL '', COMMENT … IS '') a string is an option's value.
_DATA_STATEMENTS = frozenset(
    {"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "(", "EXPLAIN", "PREPARE"}
)
_IF_NOT_EXISTS = ["IF", "NOT", "EXISTS"]
_SYSADMIN = {"SYSADMIN": "SUPERUSER", "NOSYSADMIN": "NOSUPERUSER"}


@dataclass(frozen=True)
class DatabaseMade:
    """CREATE DATABASE; `mode` None takes over the template's."""

    name: str
    mode: str | None


@dataclass(frozen=True)
class RoleSet:
    """CREATE or ALTER of a role; `made` where it is a new user, who gets a schema; `password` None leaves it."""

    name: str
    made: bool
    password: str | None


@dataclass(frozen=True)
class SettingChanged:
    """A statement that may have set `session_timeout`."""


class Lookups(TableLookups, Protocol):
    """Questions to the upstream."""

    async def database_exists(self, name: str) -> bool: ...


Effect = DatabaseMade | RoleSet | SettingChanged


@dataclass(frozen=True)
class Translated:
    """What the upstream is sent, and what the double does once it has succeeded."""

    sql: str
    effects: tuple[Effect, ...] = ()


class Translator:
    """Translates for one session.

    Args:
        profile: the release.
        mode: the database's compatibility mode.
        lookups: what has to be asked of the upstream.
    """

    def __init__(self, profile: Profile, mode: str, lookups: Lookups) -> None:
        self._profile = profile
        self._mode = mode
        self._lookups = lookups

    async def translated(self, statement: Statement, *, in_transaction: bool) -> Translated:
        """The statement for the upstream. Raises `Refusal`."""
        if statement.refusal and (in_transaction or not statement.refused_only_in_transaction):
            raise statement.refusal
        first, second = statement.starts_with
        if is_upsert(statement.words):
            statement = await upsert(statement, self._mode, self._lookups)
        if (first, second) == ("CREATE", "DATABASE"):
            return await self._create_database(statement)
        changes = dict(self._settings(statement.words))
        changes.update(_columns(statement.words))
        if self._mode == "A" and (first in _DATA_STATEMENTS or second == "TABLE"):
            changes.update((token.start, "NULL") for token in statement.words if token.text == "''")
        effects: tuple[Effect, ...] = ()
        role = statement.words[2:] if first in ("CREATE", "ALTER") and second in ("USER", "ROLE") else ()
        if role:
            made = (first, second) == ("CREATE", "USER")
            effects = (RoleSet(role[0].name, made, _password(role)),)
            changes.update((word.start, _SYSADMIN[word.upper]) for word in role[1:] if word.upper in _SYSADMIN)
        elif _mentions_timeout(statement.words):
            effects = (SettingChanged(),)
        return Translated(joined(rewritten(statement.tokens, changes)), effects)

    def _settings(self, words: Sequence[Token]) -> Iterator[tuple[int, str]]:
        """Where names of settings stand, and the upstream's names for them."""
        for token, writing in _setting_names(words):
            name = settings.upstream_name(token.name, self._profile, writing=writing)
            if name != token.name:
                yield token.start, name
        for call, opening, name_token in zip(words, words[1:], words[2:], strict=False):
            if call.name in ("current_setting", "set_config") and opening.text == "(" and name_token.text[0] == "'":
                name = settings.upstream_name(name_token.value, self._profile, writing=call.name == "set_config")
                if name != name_token.value:
                    yield name_token.start, f"'{name}'"

    async def _create_database(self, statement: Statement) -> Translated:
        words = statement.words[2:]
        unless_there = [token.upper for token in words[:3]] == _IF_NOT_EXISTS
        changes = {token.start: "" for token in words[:3]} if unless_there else {}
        words = words[3:] if unless_there else words
        if not words or not words[0].is_name:
            return Translated(joined(statement.tokens))
        name = words[0].name
        if unless_there and await self._lookups.database_exists(name):
            message = f'database "{name}" already exists, skipping'
            return Translated(f"DO {quoted(f'BEGIN RAISE NOTICE USING MESSAGE = {quoted(message)}; END')}")
        mode = None
        for index, token in enumerate(words[:-1]):
            if token.upper == "DBCOMPATIBILITY":
                end = min(index + (2 if words[index + 1].text == "=" else 1), len(words) - 1)
                mode = self._compatibility(words[end])
                changes |= {gone.start: "" for gone in words[index : end + 1]}
        return Translated(joined(rewritten(statement.tokens, changes)), (DatabaseMade(name, mode),))

    def _compatibility(self, value: Token) -> str:
        mode = (value.value if value.kind is Kind.STRING else value.text).upper()
        if mode not in self._profile.modes:
            choices = "{" + ",".join(self._profile.modes) + "}"
            raise Refusal("22023", f"Compatibility args {mode} is invalid. The value must be one of {choices}.")
        return mode


def _setting_names(words: Sequence[Token]) -> Iterator[tuple[Token, bool]]:
    """Tokens that name a setting, and whether the statement writes it."""
    upper = [token.upper for token in words]
    if upper[:1] in (["SHOW"], ["RESET"]) and not upper[2:]:
        yield from ((token, upper[0] == "RESET") for token in words[1:])
    elif upper[:1] == ["SET"] or upper[:2] in (["ALTER", "ROLE"], ["ALTER", "USER"], ["ALTER", "DATABASE"]):
        for index, word in enumerate(upper[:-1]):
            at = index + 1 + (upper[index + 1] in ("LOCAL", "SESSION"))
            follows = upper[at + 1] if at + 1 < len(upper) else ""
            if (word == "SET" and follows in ("=", "TO")) or (word == "RESET" and words[index + 1].is_name):
                yield words[at], True


def _columns(words: Sequence[Token]) -> Iterator[tuple[int, str]]:
    """`datcompatibility` is a function of the upstream's pg_database row, so it needs a qualifier."""
    for before, token in zip((None, *words), words, strict=False):
        if token.upper == "DATCOMPATIBILITY" and (before is None or before.text != "."):
            yield token.start, "pg_database.datcompatibility"


def _mentions_timeout(words: Sequence[Token]) -> bool:
    names = {token.value if token.kind is Kind.STRING else token.name for token in words}
    return settings.SESSION_TIMEOUT in names or {"reset", "all"} <= names


def _password(words: Sequence[Token]) -> str | None:
    """The literal behind PASSWORD."""
    return next((v.value for word, v in pairwise(words) if word.upper == "PASSWORD" and v.kind is Kind.STRING), None)
