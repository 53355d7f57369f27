"""aiohttp requests that never accept the answer to another request, which could be another user's.

If a proxy or server sends an answer twice, the duplicate stays in the connection that the next request uses.
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
    """The request was not sent, and aiohttp closes the connection. Equivalent to a failed connect."""


class CleanRequest(aiohttp.ClientRequest):
    """A request class for ``aiohttp.ClientSession``."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Write the request. Raises StaleConnection if the connection already contains an unrequested answer."""
        connection = conn.protocol
        if connection is not None and connection.should_close:
            raise StaleConnection
        response = await super().send(conn)
        if isinstance(response, CleanResponse):
            response.connection_used = connection
        return response


class CleanResponse(aiohttp.ClientResponse):
    """A response class for ``aiohttp.ClientSession``, for requests whose answers are never equal."""

    _answers: Final = RepeatedAnswers()
    _numbers: Final = count()
    connection_used: ResponseHandler | None = None

    async def whole(self) -> bytes:
        """The body. To be called before anything else is waited for, so that no other request has the connection yet.

        Raises:
            aiohttp.ServerDisconnectedError: it is an earlier request's answer, once more.
        """
        connection = self.connection_used
        if self.status != HTTPStatus.OK and connection is not None:
            connection.force_close()  # two refusals may well be alike
        body = await self.read()
        if connection is not None and self._answers.repeats(connection, next(self._numbers), body):
            connection.close()
            raise aiohttp.ServerDisconnectedError("The connection delivered an earlier request's answer again.")
        return body
