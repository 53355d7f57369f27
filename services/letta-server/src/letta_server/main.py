"""The command line: ``letta-server run | init | check | move | repoint | version``.

Exit codes: 0 done (or a server that a signal stopped), 1 something is not as it must be, 2 settings or arguments are
wrong, 130 a command that Ctrl-C stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from letta_server import database, env_file, initialise, launch, left_out, letta_settings, preflight, transfer
from letta_server.addresses import command
from letta_server.console import say, show
from letta_server.environment import letta_environment
from letta_server.errors import LettaServerError, SettingsRefused
from letta_server.initialise import State
from letta_server.redis_probe import wait_for_redis
from letta_server.settings import MAX_WORKERS, Settings
from shared_utils.llm.model_address import shown
from shared_utils.private_files import make_folder

_STOPPED: Final = 130
"""The shell's exit code of a program that SIGINT ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.command(given))
    except LettaServerError as error:
        say(str(error))
        return error.exit_code
    except ValueError as error:
        refused = letta_settings.refused(error)
        if refused is None:
            raise
        say(refused)
        return SettingsRefused.exit_code
    except KeyboardInterrupt:  # not of a server, which handles its signals: a command that did not end its work
        say("stopped by Ctrl-C before the end.")
        return _STOPPED


def _run(given: argparse.Namespace) -> int:
    launch.exit_cleanly_when_stopped()
    os.umask(0o077)  # Letta's files quote what users say
    settings = _settings(given)
    unprotected = settings.password is None and given.host not in {"127.0.0.1", "localhost", "::1"}
    if unprotected and settings.full_api:
        raise SettingsRefused(
            f"LETTA_SERVER_FULL_API without a password lets everybody who can reach {given.host} run code as this "
            "process; set LETTA_SERVER_PASSWORD, or use --host 127.0.0.1."
        )
    listener = launch.reserve(given.host, given.port)
    host, port = listener.getsockname()[:2]
    if unprotected:
        say(f"no password is set: anyone who can reach {host}:{port} can read and change every agent.")
    if settings.encryption_key is None:
        say("no LETTA_ENCRYPTION_KEY is set: Letta stores secrets of agents and of added providers in plain text.")
    if settings.redis is None:
        say("no Redis is set (LETTA_REDIS_HOST): Letta will not lock agents against concurrent turns.")
    else:
        wait_for_redis(settings.redis, settings.wait)
    database.wait_for_server(settings.database, settings.wait)
    _become_letta(settings, given.data)
    os.environ.setdefault("LETTA_DEFAULT_BASE_URL", f"http://127.0.0.1:{port}")
    _initialise(settings)
    server = preflight.server(settings.database)
    if server.free_connections < settings.connections:
        say(
            f"the database has {server.free_connections} free connections, but Letta may use {settings.connections}: "
            "raise its max_connections, or lower LETTA_PG_POOL_SIZE and LETTA_PG_MAX_OVERFLOW."
        )
    if server.pooled:
        say(
            "a connection pooler is, or may be, in front of the database: each of Letta's transactions sets its "
            "own session settings."
        )
    if settings.full_api:
        say("Letta's whole API answers (LETTA_SERVER_FULL_API): whoever has the password can run code as this process.")
    absent = left_out.missing()
    if settings.full_api and absent:
        say(left_out.summary(absent))
    left_out.explain(absent)
    launch.serve(listener, server, settings)


def _init(given: argparse.Namespace) -> int:
    settings = _settings(given)
    database.wait_for_server(settings.database, settings.wait)
    if given.check:
        state = initialise.look(settings.database, opengauss=settings.opengauss)
        say(f"database {settings.database} {state.value}.")
        return 0 if state is State.READY else 1
    _become_letta(settings, given.data)
    _initialise(settings)
    return 0


def _check(given: argparse.Namespace) -> int:
    settings = _settings(given)
    database.wait_for_server(settings.database, 0)
    state = initialise.look(settings.database, opengauss=settings.opengauss)
    server = preflight.server(settings.database)
    show(f"database  {settings.database} {state.value}")
    free, wanted = server.free_connections, settings.connections
    pooler = ", behind a connection pooler" if server.pooled else ""
    show(f"server    {server.dialect.product}{pooler}, {free} free connections; Letta may use {wanted}")
    if settings.redis is None:
        show("redis     not set: Letta will not lock agents against concurrent turns")
    else:
        wait_for_redis(settings.redis, 0)
        show(f"redis     {settings.redis} answers")
    show(f"password  {'set' if settings.password else 'not set: the server will accept requests without a password'}")
    show(f"api       {'all of it: LETTA_SERVER_FULL_API is on' if settings.full_api else 'what the bridge uses'}")
    show(f"model     {shown(settings.model_address) if settings.model_address else 'no OpenAI key'}")
    if state is State.READY:
        command.check(settings.database, settings.model_address)
    return 0


def _version(_given: argparse.Namespace) -> int:
    show(f"letta-server {version('letta-bridge-letta-server')} (Letta {version('letta')})")
    return 0


def _settings(given: argparse.Namespace) -> Settings:
    path = Path(".env") if given.env_file is None else given.env_file
    if given.env_file is not None or path.is_file():
        for name, value in env_file.read(path).items():
            os.environ.setdefault(name, value)
    return Settings.from_environment(
        os.environ, secure=getattr(given, "secure", False), workers=getattr(given, "workers", None)
    )


def _become_letta(settings: Settings, data: Path) -> None:
    data = data.resolve()
    make_folder(data)
    environment = letta_environment(os.environ, settings, data)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(data)  # Letta writes into its working directory, and reads any .env it finds there


def _initialise(settings: Settings) -> None:
    if initialise.initialise(settings.database, opengauss=settings.opengauss) is not State.READY:
        say(f"database {settings.database} now holds Letta 0.16.8's schema.")


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65536:  # noqa: PLR2004 - one past the last TCP port
        raise argparse.ArgumentTypeError(f"{text} is not a port number")
    return port


def _workers(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {MAX_WORKERS}")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="letta-server", description="Prepare and run Letta 0.16.8.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--env-file", type=Path, help="file of settings, one NAME=value per line (default: .env, if it exists)"
    )
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("LETTA_SERVER_DATA", "data/letta")),
        help="directory for Letta's logs and scratch files (default: %(default)s)",
    )

    run = commands.add_parser("run", parents=[common, data], help="prepare the database if needed, then serve")
    run.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    run.add_argument(
        "--port", type=_port, default=8283, help="port to listen on, 0 picks a free one (default: %(default)s)"
    )
    run.add_argument("--secure", action="store_true", help="refuse to start without LETTA_SERVER_PASSWORD")
    run.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="processes that share the port and the database; Linux only (default: LETTA_SERVER_WORKERS, or 1)",
    )
    run.set_defaults(command=_run)

    init = commands.add_parser("init", parents=[common, data], help="prepare the database only")
    init.add_argument("--check", action="store_true", help="change nothing; exit 1 if something has to be done")
    init.set_defaults(command=_init)

    check = commands.add_parser("check", parents=[common], help="check settings, database and Redis once")
    check.set_defaults(command=_check)

    transfer.register(commands, [data], _become_letta)
    command.register(commands, [common], _settings)
    commands.add_parser("version", help="print the versions").set_defaults(command=_version)
    return parser


if __name__ == "__main__":
    sys.exit(main())
