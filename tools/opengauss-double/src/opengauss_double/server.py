"""The listening double, and the same in a thread for programs that are not asynchronous."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Self, TypeVar
from urllib.parse import quote

from opengauss_double import login
from opengauss_double.auth import Accounts
from opengauss_double.databases import Databases
from opengauss_double.errors import Disconnected
from opengauss_double.installation import Installation
from opengauss_double.observation import ObservedChannel, Observer
from opengauss_double.profiles import PROFILES
from opengauss_double.protocol import Channel
from opengauss_double.upstream import Address

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Double:
    """An openGauss at `host`:`port`; asynchronous context manager.

    Args:
        upstream: URL of a superuser on the PostgreSQL behind it. The databases made through the double stay there.
        profile: `5.0`, `6.0`, `6.0.2` or `7.0`.
        host: the interface to listen on.
        port: 0 picks a free one.
        accounts: who may log in; absent: the upstream's user with its password.
        session_timeout: the default of databases made from now on, e.g. `10min`, `2s`, `0`.
        adopt: prepare databases made elsewhere, in this mode, when a client asks for them; their catalog is changed.
        observer: told what clients send and which errors they are sent.
    """

    def __init__(
        self,
        upstream: str,
        *,
        profile: str = "6.0",
        host: str = "127.0.0.1",
        port: int = 0,
        accounts: Accounts | None = None,
        session_timeout: str = "10min",
        adopt: str | None = None,
        observer: Observer | None = None,
    ) -> None:
        address = Address.parse(upstream)
        release = PROFILES[profile]
        self.accounts = Accounts() if accounts is None else accounts
        if not self.accounts.by_name:
            self.accounts.set_password(address.user, address.password)
        self.profile = release
        self.host = host
        self.port = port
        databases = Databases(address, release, session_timeout, adopt)
        self._installation = Installation(release, address, self.accounts, databases)
        self._observer = observer
        self._server: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[None]] = set()

    def url(self, database: str = "postgres", user: str | None = None) -> str:
        """A connection URL of one of the accounts, the first where none is named."""
        name = user or next(iter(self.accounts.by_name))
        password = quote(self.accounts.by_name[name].password, safe="")
        return f"postgresql://{quote(name, safe='')}:{password}@{self.host}:{self.port}/{database}?sslmode=disable"

    async def create_database(self, name: str, mode: str = "PG") -> None:
        """As CREATE DATABASE … DBCOMPATIBILITY through the wire would. Raises `UpstreamRefused`."""
        await self._installation.databases.create(name, mode)

    async def drop_database(self, name: str) -> None:
        """Drops it where it exists, ending its sessions."""
        await self._installation.databases.drop(name)

    async def __aenter__(self) -> Self:
        await self._installation.databases.open()
        self._server = await asyncio.start_server(self._accepted, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server:
            self._server.close()
        for session in self._sessions:
            session.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        client = Channel(reader, writer)
        if self._observer is not None:
            client = ObservedChannel(reader, writer, self._observer)
        if task:
            self._sessions.add(task)
        try:
            await login.serve(client, self._installation)
        except Disconnected as end:
            _log.debug("%s", end)
        except asyncio.CancelledError:
            _log.debug("The double stops.")
        except Exception:  # noqa: BLE001 - a mistake in one session must neither go unseen nor end the others
            _log.exception("A session ended by an error of the double.")
        finally:
            await client.close()
            if task:
                self._sessions.discard(task)


class ThreadedDouble:
    """A `Double` with an event loop in a thread of its own; context manager."""

    def __init__(self, double: Double) -> None:
        self.double = double
        self._started: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="opengauss-double", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def call(self, work: Coroutine[object, object, _T]) -> _T:
        """Runs one of the double's coroutines in its loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        try:
            async with self.double:
                self._started.set_result(None)
                await self._stop.wait()
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)
