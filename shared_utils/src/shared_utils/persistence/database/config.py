"""How to reach the database, and what it may be asked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import BaseModel, ConfigDict, SecretStr, field_validator, model_validator

from shared_utils.config.layout import Layout
from shared_utils.config.settings import Section, load, setting
from shared_utils.persistence.installed_names import SCHEMA

_NO_URL: Final = (
    "not a database URL; write postgresql://user:password@host:5432/name, with special characters of the password "
    "percent-encoded (@ is %40, / is %2F)"
)
_LONGEST_NAME: Final = 63
_UNKNOWN_PARAMETER: Final = re.compile(r'invalid URI query parameter: "(\w+)"')


class DatabaseConfig(Section):
    """A PostgreSQL or openGauss database. Without ``db_url`` there is none, and files serve."""

    db_url: SecretStr | None = setting(
        None,
        "DATABASE_URL",
        doc="postgresql://user:password@host:port/name of a PostgreSQL >= 15 or openGauss >= 5.0 database; libpq's "
        "parameters (sslmode, sslrootcert …) may follow after a ?; empty: files serve",
    )
    password: SecretStr | None = setting(None, "DB_PASSWORD", doc="password of the URL's user, if the URL has none")
    schema_name: str = setting(
        SCHEMA,
        "DB_SCHEMA",
        doc="schema of the tables; a tenant's name is added to it",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
    )
    generate_schemas: bool = setting(
        True, "DB_GENERATE_SCHEMAS", doc="create database, schema and tables; false: only the command `migrate` does"
    )
    max_connections: int = setting(10, "DB_MAX_CONNECTIONS", doc="maximum number of connections", ge=1, le=1000)
    min_connections: int = setting(1, "DB_MIN_CONNECTIONS", doc="connections kept open", ge=0)
    connection_timeout: float = setting(
        5.0, "DB_CONNECTION_TIMEOUT", doc="seconds to wait for a connection", ge=1, le=300
    )
    query_timeout: float = setting(10.0, "DB_QUERY_TIMEOUT", doc="seconds that one statement may take", gt=0, le=3600)

    @field_validator("db_url")
    @classmethod
    def _a_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None or not url.get_secret_value():
            return None
        text = url.get_secret_value().strip()
        if "@" in text.partition("?")[2]:  # the ? belongs to the password, and a parameter's name would be a part of it
            raise ValueError(_NO_URL)
        try:
            parts = {name: str(value) for name, value in conninfo_to_dict(text).items()}
        except psycopg.ProgrammingError as error:
            # libpq quotes what it does not understand, which may be the password; only a parameter's name is safe.
            if parameter := _UNKNOWN_PARAMETER.search(str(error)):
                raise ValueError(f"the database URL has a parameter {parameter[1]} that libpq does not know") from None
            raise ValueError(_NO_URL) from None
        if "://" in text and _torn(parts):
            raise ValueError(_NO_URL)
        if not parts.get("dbname"):
            raise ValueError("the database URL names no database; add /name at its end")
        return SecretStr(text)

    @model_validator(mode="after")
    def _min_below_max(self) -> Self:
        if self.min_connections > self.max_connections:
            raise ValueError(
                f"min_connections ({self.min_connections}) is more than max_connections ({self.max_connections})"
            )
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """What DATABASE_URL (or DATABASE_URL_FILE) and the DB_ variables say.

        Raises:
            SettingsError: one of them is wrong.
        """
        model = type("_Environment", (_Environment,), {"__annotations__": {"database": cls}, "database": cls()})
        found: Self = load(
            model, Layout(), config=None, environ=os.environ if environ is None else environ
        ).settings.database
        return found

    def of_tenant(self, name: str) -> Self:
        """The same with a schema of the tenant's own, so that no two tenants can meet in one; "" leaves it as it is.

        Raises:
            ValueError: the schema's name would be longer than PostgreSQL's names may be.
        """
        schema = f"{self.schema_name}_{name}" if name else self.schema_name
        if len(schema) > _LONGEST_NAME:
            raise ValueError(
                f"the schema {schema} of this tenant has more than {_LONGEST_NAME} characters; shorten "
                "database.schema_name or tenant.name"
            )
        return self.model_copy(update={"schema_name": schema})

    @property
    def conninfo(self) -> str:
        """For libpq; the password is in it.

        Raises:
            ValueError: no database is configured.
        """
        if self.db_url is None:
            raise ValueError("no database is configured; set DATABASE_URL")
        url = self.db_url.get_secret_value()
        if self.password is None or "password" in conninfo_to_dict(url):
            return url
        return make_conninfo(url, password=self.password.get_secret_value())

    @property
    def parts(self) -> dict[str, str]:
        """The URL's parts by libpq's names."""
        return {key: str(value) for key, value in conninfo_to_dict(self.conninfo).items()}

    @property
    def schema_sql(self) -> str:
        """The schema's name as SQL: quoted, since a reserved word is a name, too."""
        return f'"{self.schema_name}"'

    @property
    def place(self) -> str:
        """``name on host:port``, for people: no password in it."""
        parts = self.parts
        return f"{parts.get('dbname')} on {parts.get('host', 'localhost')}:{parts.get('port', '5432')}"


def _torn(parts: Mapping[str, str]) -> bool:
    """Whether an @ or / of the password was taken for the end of it: part of it stands elsewhere now."""
    ports = parts.get("port", "0").split(",")
    return "@" in parts.get("host", "") + parts.get("dbname", "") or not all(port.isdecimal() for port in ports if port)


class _Environment(BaseModel):
    model_config = ConfigDict(frozen=True)

    database: DatabaseConfig = DatabaseConfig()
