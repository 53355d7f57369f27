"""The vector features of a server: its vector type, and the settings of its index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg import errors

from shared_utils.observability import logs
from shared_utils.persistence.database.database import Connection, Database
from shared_utils.persistence.errors import PersistenceError
from shared_utils.persistence.statements import statements
from shared_utils.persistence.vectors.passages import Metric

_log = logs.get(__name__)

_SQL: Final = statements("vectors", "shared_utils.persistence")
_FIRST_HALF: Final = (0, 7)
_FIRST_ITERATIVE: Final = (0, 8)
_OPERATORS: Final[dict[Metric, tuple[str, str]]] = {
    "cosine": ("<=>", "cosine_ops"),
    "l2": ("<->", "l2_ops"),
    "inner_product": ("<#>", "ip_ops"),
}
MAX_INDEXED_DIMENSIONS: Final = 2000
"""Dimensions an index holds in single precision."""
INDEXED_HALF: Final = 4000
"""The same in half precision."""


@dataclass(frozen=True, slots=True)
class VectorEngine:
    """How one server handles vectors."""

    oid: int | None
    """Of its vector type; None where it has none, and vectors are arrays that are compared one by one."""
    half: bool = False
    """Whether it has a type of half precision."""
    builtin: bool = False
    """openGauss's own, or else pgvector's."""
    iterative: bool = False
    """Whether its index goes on until it has found enough that meet the conditions."""
    lack: str = ""
    """Why there is no vector type."""
    schema: str = "public"
    """Where its types and operators are."""

    def named(self, name: str) -> str:
        """A type or an operator class of the server's, with its schema, as SQL."""
        return f'"{self.schema}".{name}'

    def precision(self, kind: str, dimensions: int) -> str | None:
        """What an index on such a table holds: ``single`` or ``half`` precision; None where there can be none."""
        if kind == "float8":
            return None
        if dimensions <= MAX_INDEXED_DIMENSIONS:
            return "single"
        return "half" if self.half and dimensions <= INDEXED_HALF else None


async def look(database: Database, *, create: bool) -> VectorEngine:
    """What the server of an open database can do.

    Args:
        database: the one.
        create: make the extension where it is missing.

    Raises:
        PersistenceError: it cannot be asked.
    """
    dialect = await database.open()
    if dialect.vectors is None:
        return VectorEngine(None, lack=f"{dialect.product} has no vector type; openGauss has one since 6.0.2")
    if found := await _found(database, builtin=dialect.vectors == "builtin"):
        return found
    if dialect.vectors == "builtin":
        return VectorEngine(None, lack=f"this {dialect.product} was built without its vector type")
    if not create:
        return VectorEngine(None, lack="the extension pgvector is not installed, and the settings do not require it")
    lack = await _created(database)
    if found := await _found(database, builtin=False):
        return found
    _log.warning("vector_extension_missing", reason=lack)
    return VectorEngine(None, lack=lack)


async def _found(database: Database, *, builtin: bool) -> VectorEngine | None:
    types = {row["typname"]: row for row in await database.fetch(_SQL["vector_type"])}
    if "vector" not in types:
        return None
    version = tuple(int(part) for part in (types["vector"]["version"] or "0").split(".")[:2])
    return VectorEngine(
        types["vector"]["oid"],
        half="halfvec" in types and version >= _FIRST_HALF,
        builtin=builtin,
        iterative=version >= _FIRST_ITERATIVE,
        schema=types["vector"]["nspname"],
    )


async def _created(database: Database) -> str:
    """Make the extension, and say why it is not to be had where it is not; another process may have been faster."""
    if not database.config.generate_schemas:
        return "the extension pgvector is missing in the database; run as an administrator: CREATE EXTENSION vector"

    async def work(connection: Connection) -> str:
        try:
            await database.send(connection, _SQL["create_extension"])
        except (errors.DuplicateObject, errors.UniqueViolation):
            return "the extension pgvector is in a schema outside the search path; move it to the schema public"
        except errors.InsufficientPrivilege:
            return "this role may not create the extension pgvector; run as an administrator: CREATE EXTENSION vector"
        except (errors.FeatureNotSupported, errors.UndefinedFile):
            return "the extension pgvector is not installed on the server"
        return "the extension pgvector is in a schema outside the search path; move it to the schema public"

    try:
        return await database.run(work, transaction=False)
    except PersistenceError as error:
        return f"the extension pgvector cannot be created ({error})"


def operator(metric: Metric) -> str:
    """The distance operator of a metric."""
    return _OPERATORS[metric][0]


def operator_class(metric: Metric, precision: str) -> str:
    """What an index for a metric is made with."""
    return f"{'halfvec' if precision == 'half' else 'vector'}_{_OPERATORS[metric][1]}"


def indexed_expression(precision: str | None, dimensions: int, value: str = "embedding") -> str:
    """The embedding, or a query, as an index of this precision holds it."""
    return f"({value}::halfvec({dimensions}))" if precision == "half" else value
