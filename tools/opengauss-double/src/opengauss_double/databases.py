"""The databases a double serves: those made through it, changed so that their catalog is openGauss's."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from importlib.resources import files

from opengauss_double import facts, settings
from opengauss_double.errors import Refusal, UpstreamRefused
from opengauss_double.lookups import TIMEOUT
from opengauss_double.profiles import Profile
from opengauss_double.tokens import quoted
from opengauss_double.upstream import Address, Upstream

_MAINTENANCE = "postgres"
_DEFAULT_MODE = "A"
_DATABASE_COMMENT = re.compile(r"opengauss_double (\S+) (\S+)")
_ADVISORY_LOCK = 7_305_117_402  # of the upstream's advisory locks: one double at a time makes the maintenance database


@dataclass(frozen=True)
class Databases:
    """Makes, marks and finds them. A mark is the database's comment: `opengauss_double PROFILE MODE`.

    Attributes:
        address: the upstream.
        profile: the release.
        session_timeout: its default in every database prepared from now on.
        adopt: the mode in which a database made elsewhere is prepared when a client first asks for it; None refuses it.

    The upstream shows a new database before it is prepared, and openGauss does not: who enters it waits until then.
    """

    address: Address
    profile: Profile
    session_timeout: str = "10min"
    adopt: str | None = None
    _making: dict[str, list[asyncio.Event]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Name → one for each statement that makes such a database now; set when it has succeeded or failed."""

    def begin(self, name: str) -> asyncio.Event:
        """A statement makes a database of this name from now on, until :meth:`end`."""
        making = asyncio.Event()
        self._making.setdefault(name, []).append(making)
        return making

    def end(self, name: str, making: asyncio.Event) -> None:
        """The database is prepared, or is not made after all."""
        self._making[name].remove(making)
        if not self._making[name]:
            del self._making[name]
        making.set()

    async def made(self, name: str) -> None:
        """Return when no statement that was begun before makes a database of this name any more."""
        for making in tuple(self._making.get(name, ())):
            await making.wait()

    async def open(self) -> None:
        """Makes the maintenance database that clients know as `postgres`, where it is missing."""
        upstream = await Upstream.connect(self.address, self.address.database)
        try:
            await upstream.ask("SELECT pg_advisory_lock($1)", str(_ADVISORY_LOCK))
            for name in settings.own_names():
                # As in openGauss, anybody may set them, also by ALTER ROLE for himself.
                await upstream.run(f"GRANT SET ON PARAMETER {name} TO PUBLIC")
            name = self.upstream_name(_MAINTENANCE)
            if not await upstream.ask("SELECT 1 FROM pg_database WHERE datname = $1", name):
                await upstream.run(f'CREATE DATABASE "{name}"')
            if await self._mark(upstream, name) is None:
                await self.prepare(name, None)
        finally:
            await upstream.close()

    def upstream_name(self, name: str) -> str:
        return f"opengauss_double_{self.profile.name}" if name == _MAINTENANCE else name

    async def mode(self, upstream: Upstream, name: str) -> str:
        """The mode of the database that `upstream` is connected to. Raises `Refusal` where it is not this double's.

        It is not yet, where the connection is older than what made it so: then it has none of its settings.
        """
        mark = await self._mark(upstream, self.upstream_name(name))
        if mark is None or mark[0] != self.profile.name or not await _has_defaults(upstream):
            raise Refusal("3D000", f'database "{name}" does not exist')
        return mark[1]

    async def adopt_foreign(self, name: str) -> None:
        """Prepares a database made elsewhere, where `adopt` allows it. Raises `UpstreamRefused`."""
        if self.adopt is None or name == _MAINTENANCE:
            return
        upstream = await Upstream.connect(self.address, name)
        try:
            if await self._mark(upstream, name) is None:
                await self.prepare(name, self.adopt)
        finally:
            await upstream.close()

    async def prepare(self, name: str, mode: str | None) -> None:
        """Changes the catalog of a new database; without `mode` it has its template's. Raises `UpstreamRefused`."""
        upstream = await Upstream.connect(self.address, name)
        try:
            if await upstream.ask("SELECT 1 FROM pg_namespace WHERE nspname = 'opengauss_double'"):
                [[inherited]] = await upstream.ask("SELECT opengauss_double.mode()")
                mode = inherited or _DEFAULT_MODE
            else:
                mode = mode or _DEFAULT_MODE
                await upstream.run(self._catalog(mode))
            await upstream.run(self._defaults(name, mode))
        finally:
            await upstream.close()

    async def create(self, name: str, mode: str) -> None:
        """Makes and prepares one. Raises `UpstreamRefused`."""
        making = self.begin(name)
        try:
            await self._run_in_upstream(f"CREATE DATABASE {_identifier(name)}")
            await self.prepare(name, mode)
        finally:
            self.end(name, making)

    async def drop(self, name: str) -> None:
        await self._run_in_upstream(f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)")

    async def _run_in_upstream(self, statement: str) -> None:
        upstream = await Upstream.connect(self.address, self.address.database)
        try:
            await upstream.run(statement)
        finally:
            await upstream.close()

    async def _mark(self, upstream: Upstream, name: str) -> tuple[str, str] | None:
        query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1"
        rows = await upstream.ask(query, name)
        found = _DATABASE_COMMENT.fullmatch(rows[0][0] or "") if rows else None
        return (found[1], found[2]) if found else None

    def _catalog(self, mode: str) -> str:
        """One query string, so one transaction."""
        parts = ["prepare", *(["vector"] if self.profile.datavec else []), *(["a_mode"] if mode == "A" else [])]
        scripts = [(files(__package__) / "sql" / f"{part}.sql").read_text(encoding="utf-8") for part in parts]
        made = {
            "pg_catalog.version": self.profile.version,
            "pg_catalog.opengauss_version": self.profile.release,
            "opengauss_double.mode": mode,
        }
        functions = [
            f"CREATE FUNCTION {name}() RETURNS text STABLE LANGUAGE sql AS {quoted(f'SELECT {quoted(value)}::text')};"
            for name, value in made.items()
        ]
        return "\n".join([*scripts, *self._hidden(), *functions])

    def _hidden(self) -> list[str]:
        statements = [
            "UPDATE pg_proc SET proname = 'version (hidden)' WHERE oid = 'pg_catalog.version()'::regprocedure;"
        ]
        for row in filter(self.profile.rejects, facts.table("catalog")["functions"]):
            signature = f" AND oidvectortypes(proargtypes) = {quoted(row['arguments'])}" if "arguments" in row else ""
            statements.append(
                "UPDATE pg_proc SET proname = proname || ' (hidden)' "  # noqa: S608 - the package's own table
                f"WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = {quoted(row['name'])}{signature};"
            )
        statements += [
            "UPDATE pg_operator SET oprname = oprname || ' (hidden)' "  # noqa: S608 - the package's own table
            f"WHERE oid = {quoted('pg_catalog.{name}({left}, {right})'.format(**row))}::regoperator;"
            for row in filter(self.profile.rejects, facts.table("catalog")["operators"])
        ]
        return statements

    def _defaults(self, name: str, mode: str) -> str:
        database = _identifier(name)
        values = settings.database_defaults(mode, self.profile, self.session_timeout)
        statements = [f"ALTER DATABASE {database} SET {key} = {quoted(value)};" for key, value in values.items()]
        mark = quoted(f"opengauss_double {self.profile.name} {mode}")
        return "".join([*statements, f"COMMENT ON DATABASE {database} IS {mark};"])


async def _has_defaults(upstream: Upstream) -> bool:
    try:
        return bool(await upstream.ask(TIMEOUT))
    except UpstreamRefused:
        return False


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
