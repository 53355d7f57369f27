"""Parses REDIS_URL: kind of Redis, address, user and options.

======================================================  ==============================================================
``redis://``, ``rediss://`` (TLS)                       one server: ``[user:password@]host[:port][/DB]``
``unix://``                                             one server on this machine: ``[user:password@]/path/to/socket``
``redis+sentinel://``, ``rediss+sentinel://``           ``[user:password@]host[:port][,host[:port]…]/NAME[/DB]``
``redis+cluster://``, ``rediss+cluster://``             ``[user:password@]host[:port][,host[:port]…]``
======================================================  ==============================================================

Options follow behind a ``?``; an unknown one is refused by its name. No error repeats the URL: it holds a password.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

from shared_utils.errors import SettingsError

Kind = Literal["server", "socket", "sentinel", "cluster"]

_KINDS: Final[Mapping[str, tuple[Kind, bool]]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("socket", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_DEFAULT_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_UNESCAPED: Final = (
    "REDIS_URL cannot be parsed: its port is not a number, or its password contains one of / ? # [ @ : % unescaped; "
    "percent-encode them (%2F), or set the password in REDIS_PASSWORD"
)
_OURS: Final = frozenset(
    {
        *(
            "client_name",
            "connection_class",
            "decode_responses",
            "encoding",
            "encoding_errors",
            "health_check_interval",
        ),
        *("legacy_responses", "max_connections", "protocol", "retry", "retry_on_error", "retry_on_timeout"),
        *("socket_connect_timeout", "socket_keepalive", "socket_timeout", "timeout"),
    }
)
"""Options of redis-py that this project fixes, because its commands would fail or hang with other values."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """One Redis, Sentinel group or Cluster."""

    kind: Kind
    tls: bool = False
    hosts: tuple[tuple[str, int], ...] = ()
    """Of the server, the Sentinels, or some nodes of the Cluster."""
    path: str = ""
    """Of the socket."""
    name: str = ""
    """Under which the Sentinels know the primary."""
    db: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls_options: Mapping[str, Any] = field(default_factory=dict)
    """By redis-py's names."""


def parse(url: str) -> RedisAddress:
    """Read a URL.

    Raises:
        SettingsError: one sentence that names what is wrong and repeats nothing of a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise SettingsError("REDIS_URL is not a URL; write for example redis://host:6379")
    if scheme.lower() not in _KINDS:
        raise SettingsError(
            f"REDIS_URL starts with '{scheme}://', which is not one of redis, rediss, unix, redis+sentinel, "
            "redis+cluster"
        )
    kind, tls = _KINDS[scheme.lower()]
    try:
        parts = urlsplit(f"redis://{rest}")
    except ValueError:
        raise SettingsError(_UNESCAPED) from None
    if parts.fragment or "#" in url or "@" in parts.path + parts.query:
        raise SettingsError(_UNESCAPED)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    options = _options(parts.query, tls=tls, sentinel=kind == "sentinel")
    where = _socket(hosts, parts.path) if kind == "socket" else _network(kind, hosts, parts.path)
    found = {"username": unquote(username) or None, "password": unquote(password) or None}
    found = {name: value for name, value in found.items() if value is not None}
    return RedisAddress(**{"kind": kind, "tls": tls, **where, **options, **found})


def _socket(hosts: str, path: str) -> dict[str, Any]:
    if hosts or not path.strip("/"):
        raise SettingsError("REDIS_URL names no socket; write unix:///path/to/redis.sock, with three slashes")
    return {"path": unquote(path)}


def _network(kind: Kind, hosts: str, path: str) -> dict[str, Any]:
    default = _SENTINEL_PORT if kind == "sentinel" else _DEFAULT_PORT
    addresses = tuple(_address(host, default) for host in hosts.split(","))
    if kind == "server" and len(addresses) > 1:
        raise SettingsError("REDIS_URL names several servers; use redis+sentinel:// or redis+cluster://")
    words = [unquote(word) for word in path.split("/") if word]
    name = ""
    if kind == "sentinel":
        if not words:
            raise SettingsError(
                "REDIS_URL names no primary for the Sentinels; it reads redis+sentinel://host:26379/NAME/DB"
            )
        name = words.pop(0)
    if len(words) > 1:
        raise SettingsError("REDIS_URL has more than a database number after its host")
    db = _number("database", words[0]) if words else None
    if kind == "cluster" and db:
        raise SettingsError(f"REDIS_URL names database {db} of a Cluster, which has only database 0")
    return {"hosts": addresses, "name": name, **({} if db is None else {"db": db})}


def _address(text: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise SettingsError(_UNESCAPED) from None
    if not host:
        raise SettingsError("REDIS_URL has an empty host; write redis://host:6379")
    if port == 0:
        raise SettingsError("REDIS_URL names port 0; use 1 to 65535")
    return unquote(host), port or default_port


def _options(query: str, *, tls: bool, sentinel: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    tls_options: dict[str, Any] = {}
    for pair in filter(None, query.split("&")):
        name, _, raw = pair.partition("=")
        value = unquote(raw)
        if name in _TLS_OPTIONS:
            if not tls:
                raise SettingsError(f"REDIS_URL has the option {name} without TLS; begin it with rediss://")
            tls_options[name] = _TLS_OPTIONS[name](name, value)
        elif name in _OPTIONS or (sentinel and name in _SENTINEL_OPTIONS):
            found[name] = _number("database", value) if name == "db" else value
        elif name in _OURS:
            raise SettingsError(f"REDIS_URL has the option {name}, which this project sets itself; remove it")
        else:
            # A name that is none may be a piece of a password with a question mark.
            known = sorted({*_OPTIONS, *_SENTINEL_OPTIONS, *_TLS_OPTIONS})
            named = f" {name}" if name.isidentifier() else ""
            raise SettingsError(f"REDIS_URL has an unknown option{named}; known are {', '.join(known)}")
    return found | {"tls_options": tls_options}


def _number(what: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise SettingsError(f"REDIS_URL names a {what} that is no number")
    return int(text)


def _file(name: str, value: str) -> str:
    if not Path(value).is_file():
        raise SettingsError(f"REDIS_URL has {name}={value}, and there is no such file")
    return value


def _switch(name: str, value: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if value.lower() not in known:
        raise SettingsError(f"REDIS_URL has {name}, which is true or false")
    return known[value.lower()]


def _cert_reqs(name: str, value: str) -> str:
    word = value.lower().removeprefix("cert_")
    if word not in {"required", "optional", "none"}:
        raise SettingsError(f"REDIS_URL has {name}, which is required, optional or none")
    return word


_OPTIONS: Final = frozenset({"db", "username", "password"})
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
_TLS_OPTIONS: Final[Mapping[str, Callable[[str, str], Any]]] = {
    "ssl_ca_certs": _file,
    "ssl_certfile": _file,
    "ssl_keyfile": _file,
    "ssl_cert_reqs": _cert_reqs,
    "ssl_check_hostname": _switch,
}
