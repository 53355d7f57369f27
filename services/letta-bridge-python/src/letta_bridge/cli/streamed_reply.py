"""Shows a reply while the agent speaks; the first ^C interrupts it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import typer

from letta_bridge.cli.common import tell
from letta_bridge_client import BridgeError, End, Event, Reply, ReplyStream, Restart, Sentence


async def show(stream: ReplyStream, *, as_json: bool) -> Reply:
    """Print what comes, and return the reply.

    Raises:
        BridgeError: as the stream does.
    """
    with _interrupted_by_signal(stream):
        shown = _Shown(as_json=as_json)
        try:
            async for event in stream:
                shown.add(event)
                if isinstance(event, Sentence):
                    stream.heard(event)  # on a screen, all of it can be read at once
                if isinstance(event, End):
                    return event.reply
        finally:
            shown.close()
    raise RuntimeError("a stream ends with its reply, or an error")


def told_of_interrupt(reply: Reply) -> str:
    """What the agent learns of an interrupted reply."""
    if not reply.heard_text:
        return "interrupted before anything was shown; the agent learns that nothing of its answer was heard"
    return f"interrupted; the agent learns that of its answer only this was heard: {reply.heard_text}"


class _Shown:
    """What is on the screen."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._has_open_line = False

    def add(self, event: Event) -> None:
        if self._as_json:
            typer.echo(json.dumps(_as_json(event), ensure_ascii=False))
        elif isinstance(event, Sentence):
            typer.echo(event.text, nl=False)
            self._has_open_line = True
        elif isinstance(event, Restart):
            self.close()
            tell(f"what was said until here is void ({event.reason}); the answer begins again")

    def close(self) -> None:
        if self._has_open_line:
            typer.echo()
        self._has_open_line = False


def _as_json(event: Event) -> dict[str, Any]:
    said = {field.name: getattr(event, field.name) for field in fields(event)}
    if isinstance(event, End):
        said["reply"] = event.reply.raw
    return {"type": type(event).__name__.lower(), **said}


@contextlib.contextmanager
def _interrupted_by_signal(stream: ReplyStream) -> Iterator[None]:
    """In the block, the first ^C interrupts the reply, whose end is then awaited; a second one ends the program."""
    loop, begun = asyncio.get_running_loop(), list[asyncio.Task[None]]()

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        tell("interrupting the reply; another Ctrl-C ends this command at once")
        begun.append(loop.create_task(_interrupt(stream)))

    with contextlib.suppress(RuntimeError, ValueError):  # only the main thread may ask for signals
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGINT)
        for task in begun:
            task.cancel()


async def _interrupt(stream: ReplyStream) -> None:
    try:
        await stream.interrupt()
    except BridgeError as error:
        tell(str(error))
