"""Agents and archives by the address of the model they call; moves them to another address.

Only what belongs to Letta's own providers counts: an agent with a provider that somebody added (BYOK) is left alone.
Each batch is a transaction, and each row is changed only if it still holds what was read. So a move may run beside
Letta, and one that is killed is completed by the same command.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from letta_server import database
from letta_server.database import Connection
from letta_server.database_url import DatabaseUrl
from shared_utils.llm.model_address import same, tidy

_BATCH: Final = 500
"""Rows of a transaction."""
_PROXY: Final = "-proxy"
"""What Letta puts after the provider's name in handles, where the address is not OpenAI's."""
_BRIDGES: Final = sql.SQL("(tag = 'bridge' OR tag LIKE 'bridge:%' OR tag LIKE 'restoring:bridge%')")
"""The tags that the bridge gives its agents, of any tenant, and those it is restoring."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which agents count: those of the bridge, those with one of ``tags``, or every one."""

    tags: Sequence[str] = ()
    every: bool = False

    @property
    def agents(self) -> sql.Composable:
        """A query for their ids."""
        if self.every:
            return sql.SQL("SELECT id FROM agents")
        tagged = sql.SQL("tag = ANY({})").format(sql.Literal(list(self.tags))) if self.tags else _BRIDGES
        return sql.SQL("SELECT agent_id FROM agents_tags WHERE {}").format(tagged)

    @property
    def archives(self) -> sql.Composable:
        """A query for the ids of the archives that they alone use."""
        if self.every:
            return sql.SQL("SELECT id FROM archives")
        return sql.SQL(
            "SELECT archive_id FROM archives_agents WHERE agent_id IN ({agents}) AND archive_id NOT IN "
            "(SELECT archive_id FROM archives_agents WHERE agent_id NOT IN ({agents}))"
        ).format(agents=self.agents)


@dataclass(frozen=True, slots=True)
class Column:
    """A JSON column that holds an address."""

    table: str
    name: str
    key: str
    what: str
    """The holders' name, in the plural."""
    provider: sql.SQL
    """The provider's name, as SQL."""
    base: sql.Composable
    """The condition for the provider to be one of Letta's own."""


_OF_HANDLE: Final = sql.SQL("split_part(embedding_config->>'handle', '/', 1)")
# An added provider may have the name of one of Letta's own, if it was there first; then its address tells.
_NOT_ADDED: Final = sql.SQL("""
    NOT EXISTS (
        SELECT 1 FROM providers AS added
        WHERE added.organization_id IS NOT NULL AND added.name = {} AND (
            NOT EXISTS (SELECT 1 FROM providers AS own WHERE own.organization_id IS NULL AND own.name = added.name)
            OR rtrim(added.base_url, '/') = rtrim(embedding_config->>'embedding_endpoint', '/')
        )
    )
""").format(_OF_HANDLE)
COLUMNS: Final = (
    Column(
        "agents",
        "llm_config",
        "model_endpoint",
        "agents",
        sql.SQL("coalesce(llm_config->>'provider_name', split_part(llm_config->>'handle', '/', 1))"),
        sql.SQL("coalesce(llm_config->>'provider_category', 'base') = 'base'"),
    ),
    Column("agents", "embedding_config", "embedding_endpoint", "agents' embeddings", _OF_HANDLE, _NOT_ADDED),
    Column("archives", "embedding_config", "embedding_endpoint", "archives", _OF_HANDLE, _NOT_ADDED),
)


@dataclass(frozen=True, slots=True)
class Place:
    """The holders of one address in one column."""

    column: Column
    provider: str
    address: str
    count: int


@dataclass(slots=True)
class Done:
    """What a move did."""

    changed: int = 0
    skipped: int = 0
    """Rows that something else changed between reading and writing."""


def astray(found: Sequence[Place], providers: Mapping[str, str]) -> list[tuple[Place, str]]:
    """The places whose address is not their provider's, with the one that is.

    Args:
        found: all places.
        providers: name of a provider → its address.
    """
    wrong = [(place, providers[place.provider]) for place in found if place.provider in providers]
    return [(place, address) for place, address in wrong if not same(address, place.address)]


def places(connection: Connection, scope: Scope) -> list[Place]:
    """Every address that the holders in scope have, with their numbers."""
    return [place for column in COLUMNS for place in _places(connection, scope, column)]


def move(connection: Connection, url: DatabaseUrl, scope: Scope, found: Sequence[tuple[Place, str]]) -> Done:
    """Give the holders at each place another address, in transactions of their own.

    Args:
        connection: to Letta's database, in a transaction without changes.
        url: the database's.
        scope: whose.
        found: each place with its new address.
    """
    done = Done()
    for place, address in found:
        last = ""
        while batch := _batch(connection, scope, place, last):
            database.limit_waiting(connection)
            for row_id, config in batch:
                if _write(connection, place.column, row_id, config, address):
                    done.changed += 1
                else:
                    done.skipped += 1
            database.commit(connection, url)
            last = batch[-1][0]
    return done


def _places(connection: Connection, scope: Scope, column: Column) -> Iterator[Place]:
    question = sql.SQL(
        "SELECT {provider}, {config}->>{key}, count(*) FROM {table} WHERE {mine} AND {config}->>{key} IS NOT NULL "
        "GROUP BY 1, 2 ORDER BY 1, 2"
    ).format(provider=column.provider, mine=_mine(scope, column), **_names(column))
    for provider, address, count in connection.execute(question).fetchall():
        yield Place(column, str(provider or "").removesuffix(_PROXY), str(address), int(count))


def _batch(connection: Connection, scope: Scope, place: Place, after: str) -> list[tuple[str, str]]:
    question = sql.SQL(
        "SELECT id, {config}::text FROM {table} WHERE id > {after} AND {config}->>{key} = {address} AND {mine} "
        "AND coalesce({provider}, '') IN ({name}, {proxy}) ORDER BY id LIMIT {limit}"
    ).format(
        # Literals and no parameters: with parameters, psycopg takes a % in a tag for a placeholder.
        after=sql.Literal(after),
        address=sql.Literal(place.address),
        mine=_mine(scope, place.column),
        provider=place.column.provider,
        name=sql.Literal(place.provider),
        proxy=sql.Literal(place.provider + _PROXY),
        limit=sql.Literal(_BATCH),
        **_names(place.column),
    )
    rows = connection.execute(question).fetchall()
    return [(str(row_id), str(config)) for row_id, config in rows]


def _write(connection: Connection, column: Column, row_id: str, config: str, address: str) -> bool:
    changed = json.dumps(json.loads(config) | {column.key: tidy(address)})
    statement = sql.SQL("UPDATE {table} SET {config} = %s::json WHERE id = %s AND {config}::text = %s")
    return connection.execute(statement.format(**_names(column)), [changed, row_id, config]).rowcount == 1


def _mine(scope: Scope, column: Column) -> sql.Composable:
    ids = scope.agents if column.table == "agents" else scope.archives
    return sql.SQL("id IN ({ids}) AND {base}").format(ids=ids, base=column.base)


def _names(column: Column) -> dict[str, sql.Composable]:
    return {
        "table": sql.Identifier(column.table),
        "config": sql.Identifier(column.name),
        "key": sql.Literal(column.key),
    }
