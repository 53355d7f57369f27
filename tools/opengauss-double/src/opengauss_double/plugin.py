"""A pytest plugin, loaded where this package is installed: `opengauss(profile)` gives a database on a double.

It needs the fixture `postgres_server`, whose `url()` names a superuser on a PostgreSQL with pgvector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import pytest

from opengauss_double.server import Double, ThreadedDouble

_numbers = count(1)


class _Server(Protocol):
    def url(self) -> str: ...


@dataclass(frozen=True)
class OpenGauss:
    """A running double and an empty database on it."""

    double: Double
    database: str

    @property
    def url(self) -> str:
        """The database's."""
        return self.double.url(self.database)

    @property
    def maintenance_url(self) -> str:
        """For CREATE DATABASE."""
        return self.double.url()


OpenGaussFactory = Callable[..., OpenGauss]


@contextmanager
def running(upstream: str, profile: str, mode: str = "PG", **options: Any) -> Iterator[OpenGauss]:
    """A double of this profile with a database in this mode, dropped afterwards; `options` are `Double`'s."""
    with ThreadedDouble(Double(upstream, profile=profile, **options)) as threaded:
        name = f"gauss_{next(_numbers)}"
        threaded.call(threaded.double.drop_database(name))
        threaded.call(threaded.double.create_database(name, mode))
        try:
            yield OpenGauss(threaded.double, name)
        finally:
            threaded.call(threaded.double.drop_database(name))


@pytest.fixture
def opengauss(postgres_server: _Server) -> Iterator[OpenGaussFactory]:
    """Makes databases on doubles that end with the test: `opengauss("6.0", mode="A", session_timeout="2s")`."""
    with ExitStack() as held:

        def make(profile: str = "6.0", mode: str = "PG", **options: Any) -> OpenGauss:
            return held.enter_context(running(postgres_server.url(), profile, mode, **options))

        yield make
