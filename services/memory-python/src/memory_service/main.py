"""The command line of memory-python."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from memory_service import service
from memory_service.config_layout import LAYOUT
from memory_service.keys import QueueKeys
from memory_service.settings import ServiceSettings
from memory_service.survey import take_survey, work_done
from shared_utils.config.deprecations import log_deprecations
from shared_utils.config.secret_values import secrets_of
from shared_utils.config.settings import Loaded, config_file, load
from shared_utils.errors import SettingsError
from shared_utils.observability import logs
from shared_utils.redis.connection import CONNECTION_ERRORS, close, connect
from shared_utils.redis.failures import explain

_EXIT_FAILED: Final = 1
_EXIT_MISCONFIGURED: Final = 2
_EXIT_NO_REDIS: Final = 4

_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Short-term memory of a chat product in Redis, and the Letta bridge's fallback.",
    epilog="Exit codes: 0 done, 1 a part of the service failed, 2 wrong arguments or configuration, "
    "4 Redis cannot be reached (stats only; run waits for it).",
)

_Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Configuration file. Default: $LETTA_BRIDGE_CONFIG, else ./config.json if it exists.",
        show_default=False,
    ),
]


def _version(value: bool) -> None:
    if value:
        typer.echo(version("letta-bridge-memory"))
        raise typer.Exit


@_app.callback()
def _main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@_app.command("run")
def _run(
    config: _Config = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port of the health endpoints; 0 picks one.", show_default=False)
    ] = None,
) -> None:
    """Take tasks until SIGTERM or SIGINT, then finish what is being answered and give back the rest."""
    flags = {"memory.http.port": port}
    loaded = _load_or_leave(config, flags)
    settings = loaded.settings
    logs.configure(settings.logs, "memory-python", secrets=secrets_of(settings))
    http = settings.memory.http
    log_deprecations(loaded.deprecated, logs.get(__name__))

    def read_again() -> ServiceSettings:
        # A file that was there at the start is as good as named.
        now = _read(loaded.config or config, flags)
        log_deprecations(now.deprecated, logs.get(__name__))
        return now.settings

    try:
        asyncio.run(service.run(settings, read_again))
    except SettingsError as error:
        _leave(str(error), _EXIT_MISCONFIGURED)
    except OSError as error:
        _leave(
            f"http://{http.host}:{http.port} cannot be used ({error.strerror}); choose another --port",
            _EXIT_MISCONFIGURED,
        )
    except Exception:  # noqa: BLE001  # the outermost place: whatever broke is logged once, as one line
        logs.get(__name__).exception("service_crashed")
        raise typer.Exit(_EXIT_FAILED) from None


@_app.command("stats")
def _stats(
    config: _Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Count users and messages now, and show what all instances have done so far."""
    settings = _load_or_leave(config, {}).settings
    try:
        numbers = asyncio.run(_numbers(settings))
    except SettingsError as error:
        _leave(str(error), _EXIT_MISCONFIGURED)
    except CONNECTION_ERRORS as error:
        _leave(explain(error), _EXIT_NO_REDIS)
    if as_json:
        typer.echo(json.dumps(numbers, ensure_ascii=False))
        return
    for name, value in {**numbers, **numbers["counters"]}.items():
        if name != "counters":
            typer.echo(f"{name.replace('_', ' '):<20} {'-' if value is None else value}")


async def _numbers(settings: ServiceSettings) -> dict[str, Any]:
    client = connect(settings.redis, name="memory-python-stats")
    try:
        survey = await take_survey(client)
        return {**survey.model_dump(), **await work_done(client, QueueKeys(settings.memory.queue))}
    finally:
        await close(client)


def _load_or_leave(config: Path | None, flags: dict[str, Any]) -> Loaded[ServiceSettings]:
    try:
        return _read(config, flags)
    except SettingsError as error:
        _leave(str(error), _EXIT_MISCONFIGURED)


def _read(config: Path | None, flags: dict[str, Any]) -> Loaded[ServiceSettings]:
    path, named = config_file(config, LAYOUT, os.environ)
    return load(ServiceSettings, LAYOUT, config=path, environ=os.environ, flags=flags, must_exist=named)


def _leave(sentence: str, code: int) -> NoReturn:
    print(f"memory-python: {logs.redact_text(sentence)}", file=sys.stderr)  # noqa: T201  # the command line speaks
    raise typer.Exit(code)


def main() -> None:
    """The console script ``memory-python``."""
    _app()
