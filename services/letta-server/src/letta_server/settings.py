"""The operator's settings, read once from the environment, validated, and redacted when printed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from letta_server.database_url import DatabaseUrl
from letta_server.errors import SettingsRefused
from shared_utils.config.values import header_problem, is_service_port, trimmed, unquoted, value_problem
from shared_utils.llm.model_address import OPENAI, is_address, tidy

_PG_PARTS: Final = ("LETTA_PG_HOST", "LETTA_PG_USER", "LETTA_PG_PASSWORD", "LETTA_PG_DB")
_SECRETS: Final = ("LETTA_SERVER_PASSWORD", "LETTA_PG_PASSWORD", "LETTA_ENCRYPTION_KEY", "OPENAI_API_KEY")
_ENCRYPTION_KEY: Final = "LETTA_ENCRYPTION_KEY"
_PREFIXES: Final = ("LETTA_", "LOG_", "OPENAI_")
_KEY: Final = "_API_KEY"
MODEL_ADDRESSES: Final = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
_STORED_DIMENSIONS: Final = 4096
_TRUE: Final = {"1", "true", "yes", "on"}
_FALSE: Final = {"0", "false", "no", "off"}
_POOL: Final[Mapping[str, int]] = {"LETTA_PG_POOL_SIZE": 25, "LETTA_PG_MAX_OVERFLOW": 10}
"""Connections to the database, with their defaults, which are Letta's."""
MIN_CONNECTIONS: Final = 5
"""With fewer, Letta does not get through its start."""
MAX_WORKERS: Final = 64
_LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_LOG_FORMATS: Final = ("auto", "json", "console")


@dataclass(frozen=True)
class Redis:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Logs:
    """Which lines are logged and how; the other services' settings of the same names."""

    level: str = "info"
    format: str = "auto"
    message_text: bool = False


@dataclass(frozen=True)
class EmbeddingModel:
    """One at ``OPENAI_BASE_URL`` that Letta does not list by itself."""

    name: str
    dimensions: int
    """Numbers of a vector, at most what Letta stores."""


@dataclass(frozen=True)
class Settings:
    database: DatabaseUrl
    opengauss: bool | None
    """What kind of server the operator says it is; None: to be found out."""
    pool_size: int
    """Connections to the database that Letta keeps open, all workers together."""
    max_overflow: int
    """Connections beside them, which it closes after use."""
    redis: Redis | None
    """For Letta's locks; None means Letta runs without them, which only a single caller per agent survives."""
    password: str | None = field(repr=False)
    """Every request must carry it; None means an open server."""
    full_api: bool
    """Whether Letta's whole API answers, as an editor (ADE) needs it, or only the operations that the bridge uses."""
    repoint_agents: bool
    """Whether agents and archives of the bridge follow their provider's address at the start."""
    encryption_key: str | None = field(repr=False)
    openai_api_key: str | None = field(repr=False)
    model_address: str | None = field(repr=False)
    """Where Letta's provider of the name ``openai`` is from the next start on; None without its key."""
    embedding_model: EmbeddingModel | None
    """Offered beside those that Letta lists."""
    wait: float
    """Seconds a database or Redis that is still starting is waited for."""
    grace: float
    """Seconds requests in flight get to finish when the server is stopped."""
    workers: int = 1
    """Processes that serve."""
    logs: Logs = Logs()

    @property
    def connections(self) -> int:
        """To the database, as many as Letta may have open at once."""
        return self.pool_size + self.max_overflow

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], *, secure: bool = False, workers: int | None = None
    ) -> Settings:
        """Read and check everything.

        Args:
            environment: usually ``os.environ``.
            secure: the command line asked for a password-protected server.
            workers: how many processes the command line asked for; None where it does not say.

        Raises:
            SettingsRefused: one sentence naming the variable.
        """
        for name in _SECRETS:
            # An empty variable counts as not set, as compose files pass it on; blanks are a slip of the hand.
            if environment.get(name) and not environment[name].strip():
                raise SettingsRefused(f"{name} contains only blanks; give it a value, or remove it.")
        given = given_values(environment)
        password = _header_secret(given, "LETTA_SERVER_PASSWORD")
        if (secure or _switch(given, "LETTA_SERVER_SECURE")) and password is None:
            raise SettingsRefused(
                "Secure mode requires a password; set LETTA_SERVER_PASSWORD or LETTA_SERVER_PASSWORD_FILE."
            )
        openai_api_key = _header_secret(given, "OPENAI_API_KEY")
        address = _model_address(given)
        if openai_api_key is None and address is not None:
            raise SettingsRefused(
                "OPENAI_BASE_URL is set without OPENAI_API_KEY, so Letta ignores it; set the key too (any text if the "
                "endpoint needs none)."
            )
        return cls(
            database=_database(given),
            opengauss=_switch(given, "LETTA_ENABLE_OPENGAUSS"),
            pool_size=_count(given, "LETTA_PG_POOL_SIZE", _POOL["LETTA_PG_POOL_SIZE"]),
            max_overflow=_count(given, "LETTA_PG_MAX_OVERFLOW", _POOL["LETTA_PG_MAX_OVERFLOW"]),
            redis=_redis(given),
            password=password,
            full_api=_switch(given, "LETTA_SERVER_FULL_API") or False,
            repoint_agents=_switch(given, "LETTA_SERVER_REPOINT_AGENTS") or False,
            encryption_key=_secret(given, _ENCRYPTION_KEY),
            openai_api_key=openai_api_key,
            model_address=(address or OPENAI) if openai_api_key else None,
            embedding_model=_embedding_model(given, has_key=openai_api_key is not None),
            wait=_seconds(given, "LETTA_SERVER_WAIT", 60.0),
            grace=_seconds(given, "LETTA_SERVER_GRACE", 30.0),
            workers=_workers(given, workers),
            logs=Logs(
                _one_of(given, "LOG_LEVEL", _LOG_LEVELS, "info"),
                _one_of(given, "LOG_FORMAT", _LOG_FORMATS, "auto"),
                _switch(given, "LOG_MESSAGE_TEXT") or False,
            ),
        )

    def secrets(self, environment: Mapping[str, str]) -> set[str]:
        """Values that must not turn up in a log: these settings' secrets and the keys of models' providers."""
        own = {self.password, self.encryption_key, self.openai_api_key, self.database.password}
        return {value for value in own | {environment[name] for name in environment if name.endswith(_KEY)} if value}


def given_values(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what cannot be meant in variables of Letta, of the log and of models' providers.

    Those are blanks (compose files pass variables on empty), line ends, quotes, and addresses that Kubernetes sets in
    ``…_PORT``. The encryption key stays as it is, to the character: with another one Letta's stored secrets cannot be
    read.

    Raises:
        SettingsRefused: a value cannot be used; the sentence does not repeat it.
    """
    given = {}
    for name, value in environment.items():
        kept = value
        if name.startswith(_PREFIXES) or name.endswith(_KEY):
            if not value.strip() or is_service_port(name, value):
                continue
            if name != _ENCRYPTION_KEY:
                kept = unquoted(trimmed(value, keep_spaces=name.endswith("_PASSWORD")))
                problem = value_problem(kept, one_line=True) or (header_problem(kept) if name.endswith(_KEY) else None)
                if problem:
                    raise SettingsRefused(f"{name} {problem}.")
        given[name] = kept
    return given


def _database(given: Mapping[str, str]) -> DatabaseUrl:
    uri, password = given.get("LETTA_PG_URI"), _secret(given, "LETTA_PG_PASSWORD")
    parts = [name for name in (*_PG_PARTS, "LETTA_PG_PORT") if name in given or (name == _PG_PARTS[2] and password)]
    if uri and parts:
        raise SettingsRefused(f"LETTA_PG_URI and {parts[0]} are both set; set either the URI or the parts.")
    if uri:
        return DatabaseUrl.parse(uri)
    if not parts:
        raise SettingsRefused(
            "No database is named; set LETTA_PG_URI=postgresql://user:password@host:5432/letta, "
            "or LETTA_PG_HOST, LETTA_PG_USER, LETTA_PG_PASSWORD and LETTA_PG_DB."
        )
    missing = [name for name in _PG_PARTS if name not in parts]
    if missing or password is None:
        raise SettingsRefused(f"{parts[0]} is set but {' and '.join(missing)} is not; a database needs all of them.")
    return DatabaseUrl.of_parts(
        host=given["LETTA_PG_HOST"].strip(),
        port=_port(given, "LETTA_PG_PORT", 5432),
        user=given["LETTA_PG_USER"].strip(),
        password=password,
        name=given["LETTA_PG_DB"].strip(),
    )


def _model_address(given: Mapping[str, str]) -> str | None:
    """What Letta takes for it, which prefers the first name."""
    for name in MODEL_ADDRESSES:
        if name in given:
            if not is_address(given[name]):
                raise SettingsRefused(
                    f"{name} must be a URL such as http://127.0.0.1:11434/v1; in a login, write /, ? and # as %2F, %3F "
                    "and %23."
                )
            return tidy(given[name])
    return None


def _embedding_model(given: Mapping[str, str], *, has_key: bool) -> EmbeddingModel | None:
    name, dimensions = given.get("LETTA_SERVER_EMBEDDING_MODEL"), given.get("LETTA_SERVER_EMBEDDING_DIMENSIONS")
    if name is None and dimensions is None:
        return None
    if name is None or dimensions is None:
        raise SettingsRefused(
            "LETTA_SERVER_EMBEDDING_MODEL and LETTA_SERVER_EMBEDDING_DIMENSIONS belong together: the model's name at "
            "OPENAI_BASE_URL, and the numbers of a vector of it; set both, or neither."
        )
    if not has_key:
        raise SettingsRefused(
            "LETTA_SERVER_EMBEDDING_MODEL is set without OPENAI_API_KEY, so Letta asks no model; set the key too (any "
            "text if the endpoint needs none)."
        )
    count = _count(given, "LETTA_SERVER_EMBEDDING_DIMENSIONS", 0)
    if not 0 < count <= _STORED_DIMENSIONS:
        raise SettingsRefused(
            f"LETTA_SERVER_EMBEDDING_DIMENSIONS must be 1 to {_STORED_DIMENSIONS}, the longest vector that Letta "
            f"stores, not {count}; choose another model, or a shorter form of this one."
        )
    return EmbeddingModel(name, count)


def _redis(given: Mapping[str, str]) -> Redis | None:
    host = given.get("LETTA_REDIS_HOST", "").strip()
    if not host:
        if "LETTA_REDIS_PORT" in given:
            raise SettingsRefused("LETTA_REDIS_PORT is set without LETTA_REDIS_HOST; set both, or neither.")
        return None
    if "/" in host or "@" in host:
        raise SettingsRefused(
            "LETTA_REDIS_HOST must be only a host name: Letta 0.16.8 supports neither a URL nor a password."
        )
    return Redis(host, _port(given, "LETTA_REDIS_PORT", 6379))


def _secret(given: Mapping[str, str], name: str) -> str | None:
    """A value from NAME, or from the file NAME_FILE names (line ends around it are not part of it)."""
    path = given.get(f"{name}_FILE")
    if path is None:
        return given.get(name)
    if name in given:
        raise SettingsRefused(f"{name} and {name}_FILE are both set; keep one.")
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsRefused(f"{name}_FILE names {path}, which cannot be read: {reason}.") from None
    text = text.removesuffix("\n").removesuffix("\r") if name == _ENCRYPTION_KEY else trimmed(text, keep_spaces=True)
    if not text.strip():
        raise SettingsRefused(f"{name}_FILE names {path}, which is empty.")
    if problem := value_problem(text, one_line=True):
        raise SettingsRefused(f"The file {path} that {name}_FILE names {problem}.")
    return text


def _header_secret(given: Mapping[str, str], name: str) -> str | None:
    """A secret that is sent in an HTTP header, by Letta or to it."""
    secret = _secret(given, name)
    if secret is None:
        return None
    secret = trimmed(secret)
    if problem := header_problem(secret):
        raise SettingsRefused(f"{name} {problem}.")
    return secret


def _switch(given: Mapping[str, str], name: str) -> bool | None:
    """None where nothing is said."""
    if name not in given:
        return None
    value = given[name].strip().lower()
    if value not in _TRUE | _FALSE:
        raise SettingsRefused(f"{name} must be true or false, not {value!r}.")
    return value in _TRUE


def _one_of(given: Mapping[str, str], name: str, choices: Sequence[str], default: str) -> str:
    value = given.get(name, default).strip().lower()
    if value not in choices:
        raise SettingsRefused(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
    return value


def _port(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, str(default)).strip()
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536):  # noqa: PLR2004 - the last TCP port
        raise SettingsRefused(f"{name} must be a port number from 1 to 65535, not {text!r}.")
    return int(text)


def _count(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, str(default)).strip()
    if not (text.isascii() and text.isdigit()):
        raise SettingsRefused(f"{name} must be a whole number, 0 or more, not {text!r}.")
    return int(text)


def _workers(given: Mapping[str, str], wanted: int | None) -> int:
    """How many processes are to serve, of which each gets an equal share of the connections to the database."""
    text = given.get("LETTA_SERVER_WORKERS", "1").strip() if wanted is None else str(wanted)
    number = int(text[:6]) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= MAX_WORKERS:
        raise SettingsRefused(f"LETTA_SERVER_WORKERS must be a whole number from 1 to {MAX_WORKERS}, not {text!r}.")
    if number == 1:
        return number
    if sys.platform != "linux":
        raise SettingsRefused("Several workers need Linux: set LETTA_SERVER_WORKERS=1, or use a container.")
    pool_size, overflow = (_count(given, name, default) for name, default in _POOL.items())
    share = pool_size // number + overflow // number
    if share < MIN_CONNECTIONS or pool_size < number:
        raise SettingsRefused(
            f"{number} workers share the {pool_size + overflow} connections to the database of LETTA_PG_POOL_SIZE and "
            f"LETTA_PG_MAX_OVERFLOW, and {share} for each are too few: raise the two so that each worker has "
            f"{MIN_CONNECTIONS}, or lower LETTA_SERVER_WORKERS."
        )
    return number


def _seconds(given: Mapping[str, str], name: str, default: float) -> float:
    text = given.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise SettingsRefused(f"{name} must be a number of seconds, 0 or more, not {text!r}.")
    return value
