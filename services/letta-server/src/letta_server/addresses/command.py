"""The command ``letta-server repoint``, and what ``letta-server check`` says of addresses."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Final

import psycopg

from letta_server import database, initialise
from letta_server.addresses import holders
from letta_server.addresses.holders import Place, Scope
from letta_server.addresses.start import advice
from letta_server.console import say, show
from letta_server.database import Connection
from letta_server.database_url import DatabaseUrl
from letta_server.errors import DatabaseUnfit, LettaServerError, SettingsRefused
from letta_server.initialise import State
from letta_server.settings import Settings
from shared_utils.llm.model_address import is_address, same, shown, tidy

ReadSettings = Callable[[argparse.Namespace], Settings]
"""The settings of a command line."""

_PROVIDERS: Final = """
    SELECT name, base_url FROM providers
    WHERE organization_id IS NULL AND NOT is_deleted AND base_url IS NOT NULL ORDER BY name
"""


def register(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    parents: Sequence[argparse.ArgumentParser],
    read_settings: ReadSettings,
) -> None:
    """Add the command to the command line.

    Args:
        commands: where to.
        parents: bring ``--env-file``.
        read_settings: reads the settings.
    """
    repoint = commands.add_parser(
        "repoint",
        parents=list(parents),
        help="let agents call their model at another address",
        description="Change the address of the model in the bridge's agents and their archives. Without --yes, count "
        "them only. Letta may run meanwhile, and an interrupted command can be repeated. Providers follow "
        "OPENAI_BASE_URL at each start of letta-server; agents with a provider that somebody added are left alone.",
    )
    repoint.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="URL",
        help="the address that they have; a login in it may be left out",
    )
    repoint.add_argument(
        "--to", dest="target", metavar="URL", help="the address that they get (default: OPENAI_BASE_URL)"
    )
    whose = repoint.add_mutually_exclusive_group()
    whose.add_argument(
        "--tag",
        action="append",
        default=[],
        help="only agents with this tag, or one of several; bridge:NAME is a tenant",
    )
    whose.add_argument("--all", action="store_true", dest="every", help="agents of other programs, too")
    repoint.add_argument("--yes", action="store_true", help="change them")
    repoint.set_defaults(command=lambda given: _repoint(given, read_settings(given)))


def _repoint(given: argparse.Namespace, settings: Settings) -> int:
    source, target = tidy(given.source), tidy(given.target or settings.model_address or "")
    if not target:
        raise SettingsRefused("The new address is missing; give --to, or set OPENAI_BASE_URL.")
    for option, address in (("--from", source), ("--to", target)):
        if not is_address(address):
            raise SettingsRefused(f"{option} must be a URL as OPENAI_BASE_URL is, such as http://127.0.0.1:11434/v1.")
    if source == target:
        raise SettingsRefused("--from and --to are the same address; name two.")
    scope = Scope(tuple(given.tag), every=given.every)
    database.wait_for_server(settings.database, settings.wait)
    try:
        with _letta_database(settings) as connection:
            return _move(connection, settings.database, scope, (source, target), yes=given.yes)
    except (psycopg.Error, KeyboardInterrupt) as error:
        reason = _reason(error) if isinstance(error, psycopg.Error) else "stopped"
        raise LettaServerError(f"Interrupted ({reason}); run the same command again to change the rest.") from None


def _move(connection: Connection, url: DatabaseUrl, scope: Scope, addresses: tuple[str, str], *, yes: bool) -> int:
    source, target = addresses
    found = holders.places(connection, scope)
    chosen = [(place, target) for place in found if same(source, place.address) and place.address != target]
    if not chosen:
        _say_none(source, found, scope)
        return 0
    for place, address in chosen:
        show(f"{place.count} {place.column.what}: {shown(place.address)} -> {shown(address)}")
    _note_other_providers(connection, chosen)
    if not yes:
        say("nothing was changed; add --yes to change them.")
        return 0
    done = holders.move(connection, url, scope, chosen)
    say(f"{done.changed} changed.")
    if done.skipped:
        say(f"{done.skipped} were changed by another program meanwhile; run the same command again.")
        return 1
    return 0


def check(url: DatabaseUrl, wanted: str | None) -> None:
    """Show each provider's address, and say which agents of the bridge have another one.

    Args:
        url: a database with Letta's schema.
        wanted: the configured address of the provider openai.
    """
    with _open(url) as connection:
        known = _provider_addresses(connection)
        for name, address in known.items():
            becomes = (
                f"; the next start makes it {shown(wanted)}"
                if name == "openai" and wanted and not same(wanted, address)
                else ""
            )
            show(f"provider  {name} at {shown(address)}{becomes}")
        wrong = holders.astray(holders.places(connection, Scope()), known | ({"openai": wanted} if wanted else {}))
    show(f"agents    {advice(wrong)}" if wrong else "agents    those of the bridge have their providers' addresses")


def _letta_database(settings: Settings) -> Connection:
    if initialise.look(settings.database, opengauss=settings.opengauss) is not State.READY:
        raise DatabaseUnfit(f"Database {settings.database} holds no agents: Letta has not run on it.")
    return _open(settings.database)


def _open(url: DatabaseUrl) -> Connection:
    connection = database.connect(url)
    if connection is None:
        raise DatabaseUnfit(f"Database {url} does not exist.")
    return connection


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error).strip().partition("\n")[0] or type(error).__name__


def _provider_addresses(connection: Connection) -> dict[str, str]:
    return {str(name): str(address) for name, address in connection.execute(_PROVIDERS.encode()).fetchall()}


def _say_none(source: str, found: Sequence[Place], scope: Scope) -> None:
    whose = "" if scope.every else " with such a tag" if scope.tags else " of the bridge"
    in_use = "; ".join(f"{place.count} {place.column.what} at {shown(place.address)}" for place in found)
    say(f"no agent{whose} has the address {shown(source)}; there are: {in_use or 'none at all'}.")


def _note_other_providers(connection: Connection, chosen: Sequence[tuple[Place, str]]) -> None:
    known = _provider_addresses(connection)
    others = {place.provider for place, target in chosen if not same(target, known.get(place.provider, target))}
    for name in sorted(others):
        say(f"Letta's provider {name} is at {shown(known[name])}, which new agents get; is --to right?")
