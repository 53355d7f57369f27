"""TLS for tests: certificates of a scratch authority, and a front that speaks TLS for a server that does not."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from local_stack.errors import MissingPart
from local_stack.ports import HOST

_CHUNK_BYTES = 65_536
_CONFIGURATION = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth,clientAuth
subjectAltName = DNS:localhost,IP:127.0.0.1
authorityKeyIdentifier = keyid
subjectKeyIdentifier = hash
"""


@dataclass(frozen=True)
class Certificates:
    """Files of one scratch authority.

    Attributes:
        authority: what clients have to trust.
        certificate, key: of a server named localhost, or 127.0.0.1; clients may show them as well.
    """

    authority: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """Certificates that are valid for two days.

    Raises:
        MissingPart: the program openssl is not installed.
    """
    program = shutil.which("openssl")
    if program is None:
        raise MissingPart("The program openssl is missing, which makes certificates for tests; install it.")
    folder.mkdir(parents=True, exist_ok=True)

    def openssl(*arguments: str) -> None:
        subprocess.run([program, *arguments], cwd=folder, check=True, capture_output=True)  # noqa: S603

    (folder / "openssl.cnf").write_text(_CONFIGURATION, encoding="utf-8")
    new = (
        "req",
        "-config",
        "openssl.cnf",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    )
    authority = ("-subj", "/CN=scratch authority", "-extensions", "authority")
    openssl(*new, *authority, "-keyout", "authority.key", "-out", "authority.pem")
    server = ("-subj", "/CN=localhost", "-extensions", "server", "-CA", "authority.pem", "-CAkey", "authority.key")
    openssl(*new, *server, "-keyout", "server.key", "-out", "server.pem")
    return Certificates(folder / "authority.pem", folder / "server.pem", folder / "server.key")


class TlsFront:
    """Speaks TLS with clients and plain TCP with a server on 127.0.0.1.

    Args:
        port: the server's.
        certificates: what it shows; clients that show none of the same authority are refused where ``mutual``.
    """

    def __init__(self, port: int, certificates: Certificates, *, mutual: bool = False) -> None:
        self._target = port
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.authority))
        self._context.load_cert_chain(certificates.certificate, certificates.key)
        if mutual:
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls-front", daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connect, HOST, 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _close(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.ExitStack() as ends, contextlib.suppress(OSError, asyncio.CancelledError):
            ends.callback(writer.close)
            there, back = await asyncio.open_connection(HOST, self._target)
            ends.callback(back.close)
            await asyncio.gather(_pump(reader, back), _pump(there, writer))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    async for chunk in _chunks(source):
        sink.write(chunk)
        await sink.drain()
    sink.close()


async def _chunks(source: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while chunk := await source.read(_CHUNK_BYTES):
        yield chunk
