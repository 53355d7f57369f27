"""Why a connection cannot be opened, told from what each library raises."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psycopg
import pytest

from local_stack.fixtures import missing_parts
from local_stack.ports import HOST, free_port
from local_stack.tls import TlsFront, make_certificates
from shared_utils.connection_failures import connection_failure


@pytest.mark.parametrize(
    ("error", "clause"),
    [
        (ConnectionRefusedError(111, "x"), "no program listens there (connection refused)"),
        (socket.gaierror(-2, "x"), "its name cannot be resolved"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), "the TLS handshake fails"),
        (FileNotFoundError(2, "x"), "the socket does not exist"),
        (PermissionError(13, "x"), "this user may not open the socket"),
        (TimeoutError("timed out"), "it does not answer in time"),
        (OSError(101, "Network is unreachable"), "its network cannot be reached"),
        (RuntimeError("certificate verify failed: self-signed certificate (_ssl.c:1)"),
         "its certificate is not trusted (self-signed certificate)"),
        (RuntimeError("failed to resolve host 'x': [Errno -2] Name or service"), "its name cannot be resolved"),
        (ExceptionGroup("several", [OSError("other"), ConnectionRefusedError(111, "x")]),
         "no program listens there (connection refused)"),
        (RuntimeError("something else"), None),
    ],
    ids=repr,
)  # fmt: skip
def test_each_kind_has_its_clause(error: Any, clause: str | None) -> None:
    assert connection_failure(error) == clause


def test_connection_failure_reads_the_cause_chain() -> None:
    error = RuntimeError("All connection attempts failed")
    error.__cause__ = OSError("in between")
    error.__cause__.__context__ = ConnectionRefusedError(111, "x")
    assert connection_failure(error) == "no program listens there (connection refused)"


async def by_httpx(url: str) -> None:
    async with httpx.AsyncClient(timeout=5) as client:
        await client.get(url)


async def by_aiohttp(url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(url):
        pass


async def by_psycopg(url: str) -> None:
    address = url.replace("https://", "postgresql://u:p@").replace("http://", "postgresql://u:p@")
    mode = "verify-full&sslrootcert=system&sslnegotiation=direct" if url.startswith("https") else "disable"
    await psycopg.AsyncConnection.connect(f"{address}/db?sslmode={mode}", connect_timeout=5)


def clause_of(ask: Any, url: str) -> str | None:
    with pytest.raises((httpx.TransportError, aiohttp.ClientError, psycopg.OperationalError)) as caught:
        asyncio.run(ask(url))
    return connection_failure(caught.value)


ASKERS = pytest.mark.parametrize("ask", [by_httpx, by_aiohttp, by_psycopg])


@pytest.mark.integration
@ASKERS
def test_a_refused_connection_is_explained(ask: Any) -> None:
    assert clause_of(ask, f"http://{HOST}:{free_port()}") == "no program listens there (connection refused)"


@pytest.mark.integration
@ASKERS
def test_an_unknown_host_name_is_explained(ask: Any) -> None:
    assert clause_of(ask, "http://no-such-host.invalid:80") == "its name cannot be resolved"


@pytest.mark.integration
@ASKERS
def test_untrusted_certificate_is_explained(ask: Any, tmp_path: Path) -> None:
    with missing_parts():
        certificates = make_certificates(tmp_path)
    target = socket.create_server((HOST, 0))
    with contextlib.closing(target), TlsFront(target.getsockname()[1], certificates) as front:
        clause = clause_of(ask, f"https://localhost:{front.port}")
    assert clause is not None
    assert clause.startswith("its certificate is not trusted")
