"""Closes a connection on which more came than the answer to its request.

The HTTP client keeps such bytes and takes them for the answer to the next request on the connection, which may be that
of another user: an endpoint that sends an answer twice would have the second user read the first one's answer, and a
stray line end after an answer would fail the next call. Connections to models are httpx's only through a proxy; see
``model_transport`` for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from letta_server.replacement import replace


def install() -> None:
    """Install the hook, for all HTTP/1.1 connections of httpx in this process.

    Raises:
        LettaServerError: the function is not the one the hook was written for.
    """
    replace("httpcore._async.http11:AsyncHTTP11Connection._response_closed", _closing)


def _closing(original: Callable[..., Any]) -> Callable[..., Any]:
    async def response_closed(connection: Any) -> None:
        surplus, _ = connection._h11_state.trailing_data  # noqa: SLF001 - httpcore shows it nowhere else
        if surplus:
            await connection.aclose()
        else:
            await original(connection)

    return response_closed
