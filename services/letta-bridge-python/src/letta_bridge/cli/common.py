"""Shared code of the commands: options, exit codes, access to Redis, and error messages."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer

from letta_bridge.cli.interruption import run_command
from letta_bridge.cli.output import print_json
from letta_bridge.settings import BridgeSettings, read_settings
from shared_utils.config.settings import Loaded
from shared_utils.errors import SettingsError
from shared_utils.observability.logs import redact_text
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient, close, connect
from shared_utils.redis.failures import explain
from shared_utils.text import clean_text, is_clean

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="config.json to read; by default LETTA_BRIDGE_CONFIG or ./config.json.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_REDIS_TIMEOUT_SECONDS: Final = 10.0
"""Seconds a command to Redis may take: more than any of these commands blocks."""

_Result = TypeVar("_Result")


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED = 1
    """An error reply, an unhealthy service, or a missing object."""
    USAGE = 2
    """Wrong arguments or configuration."""
    TIMEOUT = 3
    """Not done in time."""
    NO_REDIS = 4
    """Redis cannot be reached, or refuses."""
    NO_STATE = 5
    """The database or the session file cannot be used."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C (``drain``: or SIGTERM); the output names what was done and what is left."""


def settings_or_exit(config: Path | None, *, may_create: bool = False) -> BridgeSettings:
    """The settings; a wrong one ends the command with one sentence.

    Args:
        config: the file to read.
        may_create: whether the command may create the database, its schema and its tables, as far as
            DB_GENERATE_SCHEMAS lets it. Any other command fails where they are missing: the URL or the schema's name
            may be mistyped.
    """
    settings = load_or_exit(config).settings
    if may_create:
        return settings
    database = settings.database.model_copy(update={"generate_schemas": False})
    return settings.model_copy(update={"database": database})


def load_or_exit(config: Path | None, flags: dict[str, Any] | None = None) -> Loaded[BridgeSettings]:
    """The settings and where they came from; a wrong one ends the command with one sentence."""
    try:
        return read_settings(config, flags=flags)
    except SettingsError as error:
        fail(str(error), Exit.USAGE)


def ask_redis(
    settings: BridgeSettings,
    work: Callable[[RedisClient], Awaitable[_Result]],
    *,
    signals: Sequence[signal.Signals] = (signal.SIGINT,),
) -> _Result:
    """Run ``work`` with a client and return its result. A failure of Redis ends the command with one sentence.

    Raises:
        KeyboardInterrupt: the command received SIGINT or SIGTERM.
    """
    try:
        return run_command(_with_client(settings, work), signals=signals)
    except SettingsError as error:
        fail(str(error), Exit.USAGE)
    except BrokenPipeError:
        raise  # the reader of the output has closed it; not a failure of Redis
    except CONNECTION_ERRORS as error:
        fail(explain(error), Exit.NO_REDIS)


async def _with_client(settings: BridgeSettings, work: Callable[[RedisClient], Awaitable[_Result]]) -> _Result:
    async with redis_client(settings) as client:
        return await work(client)


@contextlib.asynccontextmanager
async def redis_client(
    settings: BridgeSettings, *, timeout: float = _REDIS_TIMEOUT_SECONDS
) -> AsyncIterator[RedisClient]:
    """A client of the queue's Redis; ``timeout``: seconds that a command may take."""
    client = connect(settings.redis, name="letta-bridge-cli", timeout=timeout)
    try:
        yield client
    finally:
        await close(client)


@contextlib.contextmanager
def progress_told(words: Callable[[], str], record: Callable[[], Mapping[str, Any]] | None = None) -> Iterator[None]:
    """Say how far a command came that ^C interrupts, or that loses Redis or the database.

    Args:
        words: one clause: what was done, and what becomes of the rest.
        record: the same for programs, printed as JSON; None where people ran the command.
    """
    try:
        yield
    except KeyboardInterrupt:
        if record is not None:
            print_json({**record(), "interrupted": True})
        fail(f"interrupted; {words()}", Exit.INTERRUPTED)
    except typer.Exit as end:
        if end.exit_code in {Exit.NO_REDIS, Exit.NO_STATE}:
            tell(words())
        raise


def check_directory(path: Path, *, needed_as: str | None = None) -> None:
    """End the command with one sentence if a path is not a directory.

    Args:
        path: the caller's argument.
        needed_as: the purpose of the directory; None if the command creates it.
    """
    if path.is_dir() or (needed_as is None and not path.exists()):
        return
    if path.exists():
        fail(f"{path} is not a directory; name a directory", Exit.USAGE)
    fail(f"{path} does not exist; name the directory of {needed_as}", Exit.USAGE)


def fail(sentence: str, code: Exit) -> NoReturn:
    """End the command: one sentence on standard error, without secrets."""
    tell(sentence)
    raise typer.Exit(int(code))


def tell(sentence: str) -> None:
    """One sentence on standard error, without secrets."""
    typer.echo(f"letta-bridge: {clean_text(redact_text(sentence))}", err=True)


def refuse_undecodable(arguments: Sequence[str]) -> None:
    """End the program if an argument is neither UTF-8 text nor a path, because it could name another user."""
    for argument in arguments:
        if not is_clean(argument) and not Path(argument).exists():
            tell(f"the argument {argument!a} is not UTF-8 text; type it anew, in a terminal that uses UTF-8")
            sys.exit(Exit.USAGE)
