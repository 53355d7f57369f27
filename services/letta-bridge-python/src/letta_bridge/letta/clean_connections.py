"""Requests of aiohttp that never take the answer to another one for their own: those would be another user's words.

A proxy or a server that sends an answer twice leaves the second one in a connection that is kept for the next request.
"""

from __future__ import annotations

from http import HTTPStatus
from itertools import count
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from shared_utils.repeated_answers import RepeatedAnswers


class StaleConnection(aiohttp.ConnectionTimeoutError):
    """Nothing was sent, and aiohttp closes that connection. A failure as where a connection could not be opened."""


class CleanRequest(aiohttp.ClientRequest):
    """A request class for ``aiohttp.ClientSession``."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Write the request. Raises StaleConnection instead where an answer to nothing is there already."""
        if conn.protocol is not None and conn.protocol.should_close:
            raise StaleConnection
        return await super().send(conn)


class CleanResponse(aiohttp.ClientResponse):
    """A response class for ``aiohttp.ClientSession``; for requests of which no two are answered alike."""

    _answers: Final = RepeatedAnswers()
    _numbers: Final = count()
    _connection_used: ResponseHandler | None = None

    async def start(self, connection: Connection) -> CleanResponse:
        """Read the head. After a refusal the connection is not used again: two refusals may well be alike."""
        self._connection_used = connection.protocol
        await super().start(connection)
        if self._connection_used is not None and self.status != HTTPStatus.OK:
            self._connection_used.force_close()
        return self

    async def read(self) -> bytes:
        """Read the body. Raises aiohttp.ServerDisconnectedError where it is an earlier request's, once more."""
        body = await super().read()
        connection = self._connection_used
        if connection is not None and self._answers.repeats(connection, next(self._numbers), body):
            connection.close()
            raise aiohttp.ServerDisconnectedError("An earlier request's answer came again.")
        return body
