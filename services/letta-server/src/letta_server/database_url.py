"""Parses database URLs of operators, and formats them for Letta and psycopg."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from letta_server.errors import SettingsRefused

_SCHEMES: Final = {"postgresql", "postgres"}
_SSL_MODES: Final = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
_SSL_FILES: Final = {"sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY"}
_UNESCAPED: Final = (
    "LETTA_PG_URI cannot be parsed: percent-encode the special characters of its password, or set LETTA_PG_HOST, "
    "LETTA_PG_USER, LETTA_PG_PASSWORD and LETTA_PG_DB instead, without encoding."
)


@dataclass(frozen=True)
class DatabaseUrl:
    host: str
    port: int
    user: str
    password: str | None = field(repr=False)
    name: str
    ssl_mode: str | None = None
    """None where the operator said nothing."""
    ssl_files: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.name} at {self.host}:{self.port}"

    @property
    def conninfo(self) -> dict[str, str]:
        """The keyword arguments of psycopg, all text."""
        given = {"host": self.host, "port": str(self.port), "user": self.user, "dbname": self.name}
        if self.password is not None:
            given["password"] = self.password
        return {**given, "sslmode": self.ssl_mode or "disable", **dict(self.ssl_files)}

    @property
    def letta_uri(self) -> str:
        """For LETTA_PG_URI. Letta adds ssl=require to a URI that does not mention ssl, so this one always does."""
        secret = "" if self.password is None else f":{quote(self.password, safe='')}"
        query = urlencode({"sslmode": self.ssl_mode or "disable"})
        # The name as it is: unlike user and password, nobody on the way decodes it.
        return f"postgresql://{quote(self.user, safe='')}{secret}@{self.host}:{self.port}/{self.name}?{query}"

    @property
    def ssl_environment(self) -> dict[str, str]:
        """Certificate files as variables: Letta's driver reads those, but takes none of these URI parameters."""
        return {_SSL_FILES[name]: path for name, path in self.ssl_files}

    def in_database(self, name: str) -> DatabaseUrl:
        return replace(self, name=name)

    @classmethod
    def parse(cls, uri: str) -> DatabaseUrl:
        """Read ``postgresql://user:password@host:port/database?sslmode=...``.

        Raises:
            SettingsRefused: the sentence says which part is wrong; it never repeats the URI, which holds a password.
        """
        try:
            parts = urlsplit(uri.strip())
            port = parts.port or 5432
        except ValueError:
            raise SettingsRefused(_UNESCAPED) from None
        if parts.fragment or "@" in parts.path + parts.query:
            # An unescaped character of the password was taken for the end of it; what follows must not be shown.
            raise SettingsRefused(_UNESCAPED)
        # "postgresql+asyncpg" is how Letta's own documents write it; the driver is not the operator's choice.
        if parts.scheme.partition("+")[0] not in _SCHEMES:
            raise SettingsRefused(
                "LETTA_PG_URI must start with postgresql://; Letta 0.16.8 supports no other database."
            )
        ssl_mode, ssl_files = _ssl(parts.query)
        return _checked(
            cls(
                host=parts.hostname or "",
                port=port,
                user=unquote(parts.username or ""),
                password=None if parts.password is None else unquote(parts.password),
                name=unquote(parts.path.removeprefix("/")),
                ssl_mode=ssl_mode,
                ssl_files=ssl_files,
            ),
            "LETTA_PG_URI",
        )

    @classmethod
    def of_parts(cls, *, host: str, port: int, user: str, password: str, name: str) -> DatabaseUrl:
        return _checked(cls(host=host, port=port, user=user, password=password, name=name), "LETTA_PG_HOST")


def _checked(url: DatabaseUrl, setting: str) -> DatabaseUrl:
    missing = [word for word, value in (("host", url.host), ("user", url.user), ("database", url.name)) if not value]
    if missing:
        raise SettingsRefused(
            f"{setting} names no {' and no '.join(missing)}; write postgresql://user:password@host:5432/database "
            "(sockets are not supported: Letta reaches PostgreSQL over TCP only)."
        )
    if not url.name.isprintable() or url.name.strip() != url.name or set(url.name) & set("/?#%"):
        raise SettingsRefused(
            f"{setting} names the database {url.name!r}, which Letta 0.16.8 cannot parse; use a name without / ? # "
            "% and spaces around it."
        )
    if ":" in url.host or "/" in url.host:
        raise SettingsRefused(
            f"{setting} names the host as an IPv6 address or a socket path, which Letta 0.16.8 cannot parse; use a "
            "host name or an IPv4 address."
        )
    return url


def _ssl(query: str) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    mode, files = None, []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in {"sslmode", "ssl"} and value in _SSL_MODES:
            mode = value
        elif name in _SSL_FILES:
            files.append((name, value))
        else:
            raise SettingsRefused(
                f"LETTA_PG_URI has the parameter {name!r} with a value that Letta's driver does not support; "
                "allowed are "
                f"sslmode ({', '.join(sorted(_SSL_MODES))}), {', '.join(_SSL_FILES)}."
            )
    return mode, tuple(files)
