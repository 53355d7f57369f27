"""HTTP answers that a server or a proxy sent twice on one connection.

The client reads the second copy as the answer to whatever it asks there next: another user's words. A copy that arrives
while the connection is idle closes it. A copy that arrives later is told by its content: answers to different requests
differ at least in an id, and this one repeats the answer before it.
"""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

import httpx


class RepeatedAnswers:
    """The last answer of each connection."""

    def __init__(self) -> None:
        self._last: Final[WeakKeyDictionary[object, list[int]]] = WeakKeyDictionary()
        """Connection → number of the request and hash of the answer."""

    def repeats(self, connection: object, request: int, answer: bytes) -> bool:
        """Whether ``answer`` is the answer that the connection gave to another request just before.

        Args:
            connection: what stands for the connection and lives as long as it does.
            request: a number of all that was asked; the same request may well be answered alike.
            answer: the whole body.
        """
        digest = hash(answer)
        last = self._last.get(connection)
        if last is None:
            self._last[connection] = [request, digest]
            return False
        repeated = last[0] != request and last[1] == digest
        last[:] = request, digest
        return repeated


class SingleAnswerClient(httpx.AsyncClient):
    """An httpx client that gives no request the answer to another one. For answers that are read whole, and for events.

    Raises httpx.RemoteProtocolError instead and closes the connection, so that the request can be tried again.
    """

    def __init__(self, *, timeout: float) -> None:
        super().__init__(timeout=timeout)
        self._answers = RepeatedAnswers()

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """See httpx. A stream of events has its connection to itself from then on; anything else is read whole."""
        if stream:
            request.headers["Connection"] = "close"
        response = await super().send(request, stream=stream, **options)
        if stream and response.headers.get("content-type", "").startswith("text/event-stream"):
            return response
        await response.aread()
        connection = response.extensions.get("network_stream")
        if connection is not None:
            asked = hash((request.method, str(request.url), request.content))
            if self._answers.repeats(connection, asked, response.content):
                await connection.aclose()
                raise httpx.RemoteProtocolError(
                    "the connection delivered an earlier request's answer again", request=request
                )
        return response
