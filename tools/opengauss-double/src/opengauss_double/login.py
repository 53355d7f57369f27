"""Handles a client's login, up to its session."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from opengauss_double import protocol, settings
from opengauss_double.effects import Effects
from opengauss_double.errors import Refusal, UpstreamRefused
from opengauss_double.installation import Installation
from opengauss_double.lookups import UpstreamLookups
from opengauss_double.profiles import REPORTED, SHARED_REPORTS
from opengauss_double.protocol import Channel
from opengauss_double.session import Session
from opengauss_double.upstream import Upstream

_NOT_SETTINGS = ("user", "database", "options", "replication")


async def serve(client: Channel, installation: Installation) -> None:
    """Logs a client in and serves it. Raises `Disconnected`."""
    try:
        parameters = await _asked(client, installation)
        if parameters is None:
            return
        user = parameters.get("user", "")
        await installation.accounts.admit(client, user)
        database = parameters.get("database") or user
        upstream = await _connected(installation, database, parameters, client.peer_port)
    except Refusal as refusal:
        await client.send(protocol.error("FATAL", refusal.sqlstate, refusal.message))
        return
    except UpstreamRefused as error:
        await client.send(protocol.as_opengauss(b"E", error.fields))
        return
    except OSError as error:
        await client.send(protocol.error("FATAL", "08001", f"The upstream takes no connection: {error}"))
        return
    key = installation.key_for(upstream.key)
    try:
        await _serve_session(client, upstream, installation, (user, database), key)
    finally:
        installation.forget(key)
        await upstream.close()


async def _asked(client: Channel, installation: Installation) -> dict[str, str] | None:
    """The start-up packet's parameters; None where the client wanted something else. Raises `Refusal`."""
    code, body = await client.startup()
    while code == protocol.SSL_REQUEST:
        await client.send(b"N")
        code, body = await client.startup()
    if code == protocol.CANCEL_REQUEST:
        await installation.cancel(body)
        return None
    if code != protocol.PROTOCOL_3:
        wanted = f"{code >> 16}.{code & 0xFFFF}"
        raise Refusal("0A000", f"unsupported frontend protocol {wanted}: server supports 1.0 to 3.51")
    return protocol.startup_parameters(body)


async def _connected(
    installation: Installation, database: str, parameters: dict[str, str], client_port: int
) -> Upstream:
    wanted = {
        settings.upstream_name(name, installation.profile, writing=True): value for name, value in _settings(parameters)
    }
    wanted[settings.CLIENT_PORT] = str(client_port)
    await installation.databases.made(database)
    await installation.databases.adopt_foreign(database)
    name = installation.databases.upstream_name(database)
    return await Upstream.connect(installation.address, name, wanted)


def _settings(parameters: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Those of the start-up packet itself and of its `options` (`-c name=value`, `--name=value`)."""
    yield from ((name, value) for name, value in parameters.items() if name not in _NOT_SETTINGS)
    words = iter(shlex.split(parameters.get("options", "")))
    for word in words:
        assignment = next(words, "") if word == "-c" else word.removeprefix("--").removeprefix("-c")
        name, equals, value = assignment.partition("=")
        if equals:
            yield name.replace("-", "_"), value


async def _serve_session(
    client: Channel, upstream: Upstream, installation: Installation, who: tuple[str, str], key: bytes
) -> None:
    user, database = who
    profile = installation.profile
    try:
        mode = await installation.databases.mode(upstream, database)
        sysadmin = await UpstreamLookups(upstream).become(user)
    except Refusal as refusal:
        await client.send(protocol.error("FATAL", refusal.sqlstate, refusal.message))
        return
    except UpstreamRefused as error:
        await client.send(protocol.as_opengauss(b"E", {**error.fields, "S": "FATAL"}))
        return
    reported = {name: value for name, value in upstream.reported.items() if name in SHARED_REPORTS}
    reported |= REPORTED | dict.fromkeys(profile.reported, "")
    reported |= {"is_sysadmin": "on" if sysadmin else "off", "session_authorization": user}
    await client.send(
        *(protocol.parameter_status(name, value) for name, value in reported.items()), protocol.Message(b"K", key)
    )
    effects = Effects(installation.accounts, installation.databases)
    await Session(client, upstream, profile, mode, effects).run()
