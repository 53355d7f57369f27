"""aiohttp requests that never accept the answer to another request, which could be another user's.

If a proxy or server sends an answer twice, the duplicate stays in the connection that the next request uses.
"""

from __future__ import annotations

from itertools import count
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from shared_utils.repeated_answers import RepeatedAnswers

_OK: Final = 200


class StaleConnection(aiohttp.ConnectionTimeoutError):
    """The request was not sent, and aiohttp closes the connection. Equivalent to a failed connect."""


class CleanRequest(aiohttp.ClientRequest):
    """A request class for ``aiohttp.ClientSession``."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Write the request. Raises StaleConnection if the connection already contains an unrequested answer."""
        if conn.protocol is not None and conn.protocol.should_close:
            raise StaleConnection
        return await super().send(conn)


class CleanResponse(aiohttp.ClientResponse):
    """A response class for ``aiohttp.ClientSession``, for requests whose answers are never equal."""

    _answers: Final = RepeatedAnswers()
    _numbers: Final = count()
    _connection_used: ResponseHandler | None = None

    async def start(self, connection: Connection) -> CleanResponse:
        """Read the head. After a refusal the connection is not used again: two refusals may well be equal."""
        self._connection_used = connection.protocol
        await super().start(connection)
        if self.status != _OK:
            self.end_connection()
        return self

    async def whole(self) -> bytes:
        """The body. Raises aiohttp.ServerDisconnectedError if it is an earlier request's answer, once more."""
        body = await self.read()
        connection = self._connection_used
        if connection is not None and self._answers.repeats(connection, next(self._numbers), body):
            connection.close()
            raise aiohttp.ServerDisconnectedError("The connection delivered an earlier request's answer again.")
        return body

    def end_connection(self) -> None:
        """No request after this one uses the connection. Called before the body is read, nothing can come between."""
        if self._connection_used is not None:
            self._connection_used.force_close()

    def distrust(self) -> None:
        """Close the connection: what came was no answer, so the true one may follow and look like the next one's."""
        if self._connection_used is not None:
            self._connection_used.close()
