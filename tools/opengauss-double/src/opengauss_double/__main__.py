"""The command line: `python -m opengauss_double --profile 6.0 --listen 127.0.0.1:5433 --upstream postgresql://…`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Sequence

from opengauss_double.auth import Accounts
from opengauss_double.errors import DoubleError
from opengauss_double.profiles import MODES, PROFILES
from opengauss_double.server import Double


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; returns 1 if the start fails."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_serve(_double(options)))
    except (DoubleError, OSError, ValueError) as error:
        sys.stderr.write(f"opengauss-double: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("opengauss-double", description="An openGauss for tests, made of a PostgreSQL.")
    parser.add_argument("--profile", choices=PROFILES, default="6.0", help="the release to imitate (default: 6.0)")
    parser.add_argument("--listen", default="127.0.0.1:5433", metavar="HOST:PORT", help="port 0 picks a free one")
    parser.add_argument("--upstream", required=True, metavar="URL", help="postgresql://superuser:password@host:port/")
    parser.add_argument(
        "--account",
        action="append",
        default=[],
        metavar="NAME:PASSWORD",
        help="account that may log in; may be repeated",
    )
    parser.add_argument("--hba", choices=("md5", "sha256"), default="md5", help="the method in pg_hba.conf")
    parser.add_argument(
        "--password-encryption-type", type=int, choices=range(4), default=1, help="0 md5, 1 both, 2 sha256, 3 sm3"
    )
    parser.add_argument("--initial-user", metavar="NAME", help="user that may not log in over the network")
    parser.add_argument("--treat-as-remote", action="store_true", help="treat every client as one from the network")
    parser.add_argument("--session-timeout", default="10min", help="time a session may be idle; 0: unlimited")
    parser.add_argument(
        "--adopt",
        choices=MODES,
        help="also adapt databases created without the double, to this mode, when a client first connects to them",
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning"), default="info")
    return parser


def _double(options: argparse.Namespace) -> Double:
    host, _, port = options.listen.rpartition(":")
    accounts = Accounts(
        hba=options.hba,
        password_encryption_type=options.password_encryption_type,
        initial_user=options.initial_user,
        treat_as_remote=options.treat_as_remote,
    )
    for account in options.account:
        name, _, password = account.partition(":")
        accounts.set_password(name, password)
    return Double(
        options.upstream,
        profile=options.profile,
        host=host or "127.0.0.1",
        port=int(port),
        accounts=accounts,
        session_timeout=options.session_timeout,
        adopt=options.adopt,
    )


async def _serve(double: Double) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    async with double:
        sys.stdout.write(f"openGauss {double.profile.release} listens on {double.host}:{double.port}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
