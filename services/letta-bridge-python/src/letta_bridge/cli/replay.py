"""``letta-bridge replay``."""

from __future__ import annotations

import asyncio
import codecs
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer

from letta_bridge.cli.common import (
    ConfigOption,
    Exit,
    JsonOption,
    ask_redis,
    fail,
    progress_told,
    settings_or_exit,
    tell,
)
from letta_bridge.cli.output import print_json
from letta_bridge.request_queue.admin import DeadLetter, QueueAdmin
from letta_bridge.settings import BridgeSettings
from shared_utils.contracts.limits import Limits
from shared_utils.contracts.messages import parse_task
from shared_utils.errors import MalformedMessage
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient
from shared_utils.redis.failures import explain
from shared_utils.text import counted

_TASKS_PER_PUSH: Final = 200
_PROGRESS_SECONDS: Final = 1.0
_TOLD_LINES: Final = 10


@dataclass(slots=True)
class _Replayed:
    """Progress of a replay."""

    pushed: int = 0
    skipped: int = 0
    line: int = 0
    """The last line that was read."""
    unsure: int = 0
    """Tasks of the push in flight: the last ones up to ``line``."""
    trouble: str | None = None
    told: float = field(default=0.0)


def replay(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="File of tasks as JSON, one per line; - reads standard input.")
    ] = None,
    dead: Annotated[
        str | None,
        typer.Option(metavar="FIRST..LAST", help="Replay dead letters instead, by position; 1 is the oldest."),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Maximum tasks per second; default: no limit.", min=0.01)] = None,
    from_line: Annotated[int, typer.Option(help="First line of the file to push.", min=1)] = 1,
    check: Annotated[bool, typer.Option("--check", help="Only read the file and list its errors.")] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Push tasks from a file onto the request list, in order; or dead letters, which are then removed.

    A line that is not a task is reported and skipped, and the exit code is 1. Each task needs its own task_id: a task
    that was answered within the last queue.reply_ttl_seconds gets the same reply again and no second turn.
    """
    settings = settings_or_exit(config)
    if (file is None) == (dead is None):
        fail("name either a file of tasks or a range of --dead letters", Exit.USAGE)
    done = _Replayed()
    with progress_told(
        lambda: _how_far(done, letters=file is None, check=check), (lambda: _as_record(done)) if as_json else None
    ):
        if file is not None:
            _from_file(settings, file, rate, from_line, done, check=check)
        else:
            positions = _range(dead or "")
            ask_redis(settings, lambda client: _dead_letters(client, settings, positions, rate, done))
    if as_json:
        print_json(_as_record(done))
    else:
        what = "checked, none pushed" if check else "pushed"
        typer.echo(f"{counted(done.pushed, 'task')} {what}, {done.skipped} {'lines' if file else 'letters'} skipped")
    if done.trouble:
        fail(done.trouble, Exit.NO_REDIS)
    raise typer.Exit(int(Exit.FAILED if done.skipped else Exit.DONE))


def _as_record(done: _Replayed) -> dict[str, int]:
    return {"pushed": done.pushed, "skipped": done.skipped, "last_line": done.line}


def _how_far(done: _Replayed, *, letters: bool, check: bool) -> str:
    """One clause: what was surely pushed, what may be, and how to go on."""
    if check:
        return f"{counted(done.line, 'line')} checked, none pushed"
    if letters:
        return f"{counted(done.pushed, 'letter')} pushed, and perhaps one more; the others are still there"
    surely = f"{counted(done.pushed, 'task')} {'is' if done.pushed == 1 else 'are'} surely pushed"
    if done.unsure:
        return f"{surely}; the last {done.unsure}, up to line {done.line}, may or may not be"
    return f"{surely}; go on with --from-line {done.line + 1}"


def _from_file(
    settings: BridgeSettings, file: Path, rate: float | None, from_line: int, done: _Replayed, *, check: bool
) -> None:
    try:
        source = sys.stdin.buffer if str(file) == "-" else file.open("rb")
    except OSError as error:
        fail(f"{file} cannot be read ({error.strerror})", Exit.USAGE)
    with source:
        if check:
            for _ in _tasks(source, settings.queue.limits, from_line, done):
                done.pushed += 1
            return
        ask_redis(settings, lambda client: _push(client, settings, source, done, rate=rate, from_line=from_line))


async def _push(
    client: RedisClient,
    settings: BridgeSettings,
    source: BinaryIO,
    done: _Replayed,
    *,
    rate: float | None,
    from_line: int,
) -> None:
    await client.ping()
    tasks = _tasks(source, settings.queue.limits, from_line, done)
    async for _ in _paced(rate):
        batch = [task for _, task in zip(range(1 if rate else _TASKS_PER_PUSH), tasks, strict=False)]
        if not batch:
            return
        done.unsure = len(batch)
        try:
            await client.lpush(settings.queue.requests, *batch)
        except CONNECTION_ERRORS as error:
            # After a lost answer, the effect is unknown.
            done.trouble = f"{explain(error)}. {_how_far(done, letters=False, check=False)}"
            return
        done.unsure = 0
        done.pushed += len(batch)
        _show_progress(done)


def _tasks(source: BinaryIO, limits: Limits, from_line: int, done: _Replayed) -> Iterator[bytes]:
    """The readable lines, without their line ends. Empty lines are ignored."""
    for number, line in enumerate(source, start=1):
        if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            fail("the file is UTF-16; save it as UTF-8, one task per line", Exit.USAGE)
        payload = line.strip()
        done.line = number
        if number < from_line or not payload:
            continue
        try:
            parse_task(payload, limits)
        except MalformedMessage as error:
            done.skipped += 1
            if done.skipped <= _TOLD_LINES:
                tell(f"line {number} is skipped: {error}")
            elif done.skipped == _TOLD_LINES + 1:
                tell("further skipped lines are not listed")
            continue
        yield payload


async def _dead_letters(
    client: RedisClient,
    settings: BridgeSettings,
    positions: tuple[int, int | None],
    rate: float | None,
    done: _Replayed,
) -> None:
    first, last = positions

    def choose(_: DeadLetter) -> bool:
        done.skipped += 1  # until the letter is removed
        return True

    letters = QueueAdmin(client, settings.queue).sweep(choose, retry=True, first=first, last=last)
    pace = _paced(rate)
    await anext(pace)
    async for _ in letters:
        done.pushed += 1
        done.skipped -= 1
        _show_progress(done)
        await anext(pace)


async def _paced(rate: float | None) -> AsyncIterator[None]:
    """Endless; at most ``rate`` times a second, if a rate is given."""
    clock = asyncio.get_running_loop().time
    due = clock()
    while True:
        yield
        if rate:
            due = max(due + 1 / rate, clock() - 1)
            await asyncio.sleep(max(0.0, due - clock()))


def _range(text: str) -> tuple[int, int | None]:
    first, dots, last = text.partition("..")
    try:
        begin = int(first or 1)
        end = int(last) if last else None if dots else begin
    except ValueError:
        begin, end = 0, None
    if begin < 1 or (end is not None and end < begin):
        fail(f"--dead takes a range such as 1..50, 3 or 1.., not '{text}'", Exit.USAGE)
    return begin, end


def _show_progress(done: _Replayed) -> None:
    if not sys.stderr.isatty():
        return
    clock = asyncio.get_running_loop().time()
    if clock - done.told >= _PROGRESS_SECONDS:
        done.told = clock
        tell(f"{counted(done.pushed, 'task')} pushed")
