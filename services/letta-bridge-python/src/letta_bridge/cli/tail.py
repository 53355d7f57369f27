"""``letta-bridge tail``."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, ask_redis, fail, settings_or_exit, tell
from letta_bridge.cli.output import moment, plain, print_json, seconds_of
from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.reply_stream import BEGINNING, ReplyStream, StreamedReply
from shared_utils.contracts.messages import json_object
from shared_utils.redis.connection import RedisClient
from shared_utils.redis.failures import explain

_STREAM_ID: Final = re.compile(r"\d+-\d+")


def tail(
    since: Annotated[
        str | None,
        typer.Option(help="Start 90s, 10m, 2h or 1d ago, at an ISO time, at 'start', or after the id of a reply."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="Number of earlier replies to print first.", min=0)] = 10,
    user: Annotated[str | None, typer.Option(help="Only replies to this user.")] = None,
    follow: Annotated[bool, typer.Option(help="Wait for further replies until Ctrl-C.")] = True,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Follow the replies of all bridges: first the latest ones from the stream, then live.

    It reads the stream, not the channel, so it misses no reply, even while Redis restarts. The stream keeps the last
    queue.reply_stream_maxlen replies. With --json each line contains the reply and its id, for a later --since.
    """
    settings = settings_or_exit(config)
    begin = None if since is None else _position(since)

    async def show(client: RedisClient) -> None:
        stream = ReplyStream(client, Keys(settings.queue.requests))
        async for reply in _replies(stream, begin, count, follow=follow):
            content = json_object(reply.reply)
            if user is None or content.get("user_id") == user:
                _print(reply, content, as_json=as_json)

    with suppress(KeyboardInterrupt):
        ask_redis(settings, show)


async def _replies(stream: ReplyStream, begin: str | None, count: int, *, follow: bool) -> AsyncIterator[StreamedReply]:
    if begin is None:
        # The newest reply is read even if none is shown, because following starts after it.
        kept = await stream.newest(max(count, 1))
        begin = kept[-1].id if kept else BEGINNING
        for reply in kept if count else ():
            yield reply
    else:
        async for reply in stream.after(begin):
            begin = reply.id
            yield reply
    if follow:
        async for reply in stream.follow(begin, away=lambda error: tell(f"{explain(error)}; waiting for it")):
            yield reply


def _position(since: str) -> str:
    """The id of the stream after which replies are wanted."""
    if since == "start":
        return BEGINNING
    if _STREAM_ID.fullmatch(since):
        return since
    ago = seconds_of(since)
    if ago is not None:
        return f"{max(0, int((time.time() - ago) * 1000))}-0"
    try:
        return f"{max(0, int(datetime.fromisoformat(since).timestamp() * 1000))}-0"
    except (ValueError, OverflowError, OSError):
        fail(f"--since '{since}' is not valid; use for example 10m, 2h, 2026-01-31T08:00, or an id", Exit.USAGE)


def _print(reply: StreamedReply, content: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json({"id": reply.id, "reply": content})
        return
    when = moment(int(reply.id.partition("-")[0]) / 1000)
    if content.get("error"):
        said = f"error {content.get('code', '')}: {content.get('message', '')}"
    else:
        said = f"{content.get('source', '?')}: {content.get('response_text', '')}"
    typer.echo(plain(f"{when}  {content.get('user_id') or '-'}  {content.get('task_id', '')}  {said}"))
