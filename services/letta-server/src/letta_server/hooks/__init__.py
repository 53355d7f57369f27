"""Hooks that let Letta's code, written for PostgreSQL, work on openGauss.

Each module changes one thing in SQLAlchemy, in this process, by ``install(dialect)``; no file of Letta's is edited::

    version           openGauss's version() is not PostgreSQL's
    upserts           ON CONFLICT is not in its grammar
    returning         before 6.0.2 an upsert returns nothing
    nulls             UNIQUE NULLS NOT DISTINCT is not in its grammar
    json_casts        json and jsonb are not stored in each other's columns

Four are installed on both servers, by themselves: ``session_settings`` fixes what a connection relies on,
``statement_cache`` keeps prepared statements, ``idle_ping`` pings only connections that were idle, and
``lost_servers`` limits how long a ping or a statement waits for a server that is gone. The choice of TLS, which Letta
makes wrongly where a URI says nothing of it, is made in ``database_url``.
"""

from __future__ import annotations

from functools import cache

from letta_server.hooks import json_casts, nulls, returning, upserts, version
from shared_utils.persistence.dialects import Dialect, OpenGauss

_ALL = (version, upserts, returning, nulls, json_casts)


def install(dialect: Dialect) -> None:
    """Install what this server needs, before Letta makes its engine."""
    if isinstance(dialect, OpenGauss):
        _install(dialect)


@cache  # once is enough
def _install(dialect: OpenGauss) -> None:
    for hook in _ALL:
        hook.install(dialect)


__all__ = ["install"]
