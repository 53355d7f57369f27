"""Questions a session asks its upstream on the client's own connection, so that they see its uncommitted tables."""

from __future__ import annotations

import json

from opengauss_double.unique_keys import Column, UniqueIndex
from opengauss_double.upstream import Upstream

_UNIQUE_INDEXES = """
SELECT t.oid, i.indexrelid,
    (SELECT json_agg(a.attname) FROM pg_attribute a
     WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])),
    (SELECT json_agg(pg_get_indexdef(i.indexrelid, n, true) ORDER BY n) FROM generate_series(1, i.indnkeyatts) n),
    coalesce(pg_get_expr(i.indpred, i.indrelid), '')
FROM (SELECT opengauss_double.to_regclass($1) AS oid) t
LEFT JOIN pg_index i ON i.indrelid = t.oid AND i.indisunique AND i.indisvalid
ORDER BY i.indisprimary DESC, i.indexrelid
"""
_COLUMNS = """
SELECT attname, format_type(atttypid, NULL), coalesce(pg_get_expr(adbin, adrelid), 'NULL')
FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = opengauss_double.to_regclass($1) AND attnum > 0 AND NOT attisdropped
ORDER BY attnum
"""
_SETTINGS_OF_ROLE = """
SELECT set_config(split_part(s, '=', 1), substr(s, strpos(s, '=') + 1), false)
FROM pg_db_role_setting, unnest(setconfig) s
WHERE setrole = (SELECT oid FROM pg_roles WHERE rolname = $1)
    AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
ORDER BY setdatabase
"""
TIMEOUT = "SELECT current_setting('opengauss_double.session_timeout')"


class UpstreamLookups:
    """`translate.Lookups` over one connection.

    Attributes:
        failed: the transaction has failed, so nothing can be asked.
        in_pipeline: the client has sent extended messages and no Sync yet.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self.failed = False
        self.in_pipeline = False

    async def unique_indexes(self, table: str) -> list[UniqueIndex] | None:
        rows = [] if self.failed else await self._ask(_UNIQUE_INDEXES, table)
        if not rows or rows[0][0] is None:
            return None
        return [
            UniqueIndex(frozenset(json.loads(columns or "[]")), tuple(json.loads(keys or "[]")), predicate or "")
            for _, index, columns, keys, predicate in rows
            if index is not None
        ]

    async def columns(self, table: str) -> list[Column]:
        rows = [] if self.failed else await self._ask(_COLUMNS, table)
        return [Column(name or "", kind or "", default or "") for name, kind, default in rows]

    async def database_exists(self, name: str) -> bool:
        return not self.failed and bool(await self._ask("SELECT 1 FROM pg_database WHERE datname = $1", name))

    async def session_timeout(self) -> str | None:
        """Its present value; None where it cannot be asked for."""
        return None if self.failed else (await self._ask(TIMEOUT))[0][0]

    async def become(self, role: str) -> bool:
        """Runs the session as `role` with its settings, where the upstream has it; whether it is a superuser."""
        rows = await self._ask("SELECT rolsuper FROM pg_roles WHERE rolname = $1", role)
        if not rows:
            return True
        await self._ask(_SETTINGS_OF_ROLE, role)
        await self._ask("SELECT set_config('session_authorization', $1, false)", role)
        return rows[0][0] == "t"

    async def _ask(self, sql: str, *values: str) -> list[list[str | None]]:
        return await self._upstream.ask(sql, *values, in_pipeline=self.in_pipeline)
