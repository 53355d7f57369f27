"""Requests that never go out on a connection which has said something unasked since its last answer.

A proxy or a server that sends an answer twice leaves the second one lying in a kept connection. aiohttp would take it
for the answer to whatever is asked there next: another user's words.
"""

from __future__ import annotations

import aiohttp
from aiohttp.connector import Connection


class StaleConnection(aiohttp.ConnectionTimeoutError):
    """Nothing was sent, and aiohttp closes that connection. A failure as where a connection could not be opened."""


class CleanRequest(aiohttp.ClientRequest):
    """A request class for ``aiohttp.ClientSession``."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Write the request. Raises StaleConnection instead where an answer to nothing is there already."""
        if conn.protocol is not None and conn.protocol.should_close:
            raise StaleConnection
        return await super().send(conn)
