"""Sends turns to a Letta server over HTTP, whole or as a stream of events.

Turns are plain POSTs over aiohttp: the SDK's typed call costs ten times as much, and httpx's own pool collapses under
many slow requests.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, cast
from urllib.parse import quote

import aiohttp
from letta_client import __version__ as sdk_version
from pydantic_core import PydanticSerializationError, to_json
from yarl import URL

from letta_bridge.errors import LettaUnavailable, OutcomeUnknown
from letta_bridge.letta.answer import parse_answer
from letta_bridge.letta.clean_connections import CleanRequest, CleanResponse, StaleConnection
from letta_bridge.letta.failures import refusal, transport_failure
from letta_bridge.letta.port import TurnAnswer, TurnListener, TurnMessage
from letta_bridge.letta.streamed_turn import StreamedTurn
from letta_bridge.letta.turn_search import TOOL_KWARG_LABEL
from shared_utils.llm.server_sent_events import ServerSentEvents, TooLong
from shared_utils.text import read_json

# uvicorn closes a connection idle for 5 s; reusing one at that moment loses the request.
_KEEP_ALIVE: Final = 3.0
_SUCCESS_STATUSES: Final = range(200, 300)
_MAX_CACHED_URLS: Final = 10_000
_MAX_CACHED_LIMITS: Final = 16
_EVENT_STREAM: Final = "text/event-stream"
_CLOSING_SECONDS: Final = 5.0
"""How long Letta may take to end the run and the stream after it has sent everything."""
_STREAMING: Final = {"streaming": True, "stream_tokens": True}
_STREAM_HEADERS: Final = {
    "Accept": f"{_EVENT_STREAM}, application/json",
    "Accept-Encoding": "identity",  # a proxy that compresses holds events back
    "X-Stainless-Package-Version": sdk_version,  # Letta refuses streams on this path to clients older than 1.0
}


class TurnRequests:
    """The turns of one Letta server. Build it inside a running event loop; ``close`` it there.

    Args:
        base_url: the server, without a slash at its end.
        headers: of every request, the credentials for example.
        max_concurrency: turns in flight at most; further ones wait.
        connect_timeout: seconds for a connection to open.
    """

    def __init__(
        self, base_url: str, *, headers: Mapping[str, str], max_concurrency: int, connect_timeout: float
    ) -> None:
        self._base_url = base_url
        self._connect_timeout = connect_timeout
        # Parsed URLs are reused, because parsing costs about a tenth of a request.
        self._url = lru_cache(_MAX_CACHED_URLS)(self._url_of)
        self._limits = lru_cache(_MAX_CACHED_LIMITS)(self._limits_of)  # most turns have the same one
        # Cookies would link requests of different users. Proxies from the environment are ignored.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=max_concurrency, keepalive_timeout=_KEEP_ALIVE),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", "Accept": "application/json", **headers},
            request_class=CleanRequest,
            response_class=CleanResponse,
        )

    async def send(
        self, agent_id: str, messages: Sequence[TurnMessage], *, timeout: float, listener: TurnListener | None = None
    ) -> TurnAnswer:
        """Hand the agent a turn and wait for its answer; see the port."""
        turn: dict[str, Any] = {
            "messages": [{"role": m.role, "content": m.content, "otid": m.otid} for m in messages],
            TOOL_KWARG_LABEL: messages[-1].otid,
        }
        if self._session.closed:
            raise LettaUnavailable("The connection to Letta was closed by the bridge itself.")
        sent = tuple(message.content for message in messages)
        url, limits = self._url(agent_id), self._limits(timeout)
        while True:
            try:
                if listener is None:
                    return await self._whole(url, _as_json(turn), limits, sent)
                return await self._streamed(url, _as_json({**turn, **_STREAMING}), limits, sent, listener)
            except StaleConnection:
                continue  # on the next connection, at last on a new one
            except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
                raise transport_failure(error, reads=False) from error

    async def close(self) -> None:
        """Give back connections."""
        await self._session.close()

    async def _whole(self, url: URL, body: bytes, limits: aiohttp.ClientTimeout, sent: tuple[str, ...]) -> TurnAnswer:
        async with self._session.post(url, data=body, timeout=limits, allow_redirects=False) as response:
            clean = cast("CleanResponse", response)
            return _answer(clean, await clean.whole(), sent)

    async def _streamed(
        self, url: URL, body: bytes, limits: aiohttp.ClientTimeout, sent: tuple[str, ...], listener: TurnListener
    ) -> TurnAnswer:
        async with self._session.post(
            url, data=body, timeout=limits, allow_redirects=False, headers=_STREAM_HEADERS
        ) as response:
            clean = cast("CleanResponse", response)
            if response.status in _SUCCESS_STATUSES and response.content_type == _EVENT_STREAM:
                clean.end_connection()  # nothing would tell a second copy of a stream from the next answer
                turn = StreamedTurn(listener)
                await _hear(clean, turn)
                return turn.finish(sent=sent)
            content = await clean.whole()
            answer = _answer(clean, content, sent)
        _tell(content, listener)
        return answer

    def _url_of(self, agent_id: str) -> URL:
        return URL(f"{self._base_url}/v1/agents/{quote(agent_id, safe='')}/messages", encoded=True)

    def _limits_of(self, timeout: float) -> aiohttp.ClientTimeout:
        # aiohttp would round a timeout up to a whole second, past the caller's own deadline.
        return aiohttp.ClientTimeout(total=timeout, sock_connect=self._connect_timeout, ceil_threshold=math.inf)


def _answer(response: CleanResponse, body: bytes, sent: tuple[str, ...]) -> TurnAnswer:
    """The answer in a whole body."""
    if response.status not in _SUCCESS_STATUSES:
        raise refusal(response.status, body, retry_after=response.headers.get("Retry-After"), sent=sent)
    try:
        answer = parse_answer(body)
    except ValueError:
        response.distrust()
        raise OutcomeUnknown(
            f"The server that answered with status {response.status} at Letta's address is not Letta."
        ) from None
    if not answer.text:
        response.distrust()
    return answer


async def _hear(response: CleanResponse, turn: StreamedTurn) -> None:
    """Let the turn hear the whole stream. After its last event Letta still ends the run, and then the stream."""
    events = ServerSentEvents()
    try:
        async with asyncio.timeout(None) as closing:
            async for chunk in response.content.iter_any():
                for event in events.read(chunk):
                    turn.hear(event)
                if turn.ended and closing.when() is None:
                    closing.reschedule(asyncio.get_running_loop().time() + _CLOSING_SECONDS)
    except TooLong:
        raise OutcomeUnknown(
            "Letta's stream is longer than any answer should be, so the bridge stopped reading it; the turn goes on in "
            "Letta: limit the model's answers with agents.max_tokens.",
            cause="connection_lost",
        ) from None
    except (aiohttp.ClientError, OSError):
        if not turn.ended:
            raise


def _tell(body: bytes, listener: TurnListener) -> None:
    """Tell a listener of an answer that came whole, because the server does not stream."""
    answer = read_json(body)
    messages = answer.get("messages")
    turn = StreamedTurn(listener)
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict):
            turn.take(message)
    turn.say_the_rest()


def _as_json(turn: object) -> bytes:
    try:
        return to_json(turn)  # seven times as fast
    except PydanticSerializationError:  # half a surrogate pair, which only an escape can stand for
        return json.dumps(turn).encode()
