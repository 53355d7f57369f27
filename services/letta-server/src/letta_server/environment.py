"""Letta's environment: the operator's variables, plus the settings that performed best in measurements."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from letta_server.settings import MODEL_ADDRESSES, Settings, given_values
from shared_utils.llm.model_address import tidy

_BETTER: Final = {
    # Letta's default opens and closes some 20 connections a message; a pool halves the time of a turn.
    "LETTA_DISABLE_SQLALCHEMY_POOLING": "false",
    # Three round trips before each transaction; hooks.idle_ping does it where a connection was idle.
    "LETTA_POOL_PRE_PING": "false",
    # The bodies of every model call, 7 KB a step, would soon be the largest table.
    "LETTA_TRACK_PROVIDER_TRACE": "false",
}
"""Only where the operator says nothing."""

_OURS: Final = (
    # The password middleware is this package's: Letta's prints the password, and its tools' processes would inherit it.
    "LETTA_SERVER_SECURE",
    "LETTA_SERVER_PASSWORD",
    "LETTA_SERVER_FULL_API",
    "LETTA_SERVER_REPOINT_AGENTS",
    "LETTA_SERVER_EMBEDDING_MODEL",
    "LETTA_SERVER_EMBEDDING_DIMENSIONS",
    "LETTA_SERVER_WORKERS",
    "LETTA_PG_HOST",
    "LETTA_PG_PORT",
    "LETTA_PG_USER",
    "LETTA_PG_PASSWORD",
    "LETTA_PG_DB",
    "LETTA_ENABLE_OPENGAUSS",
    "LETTA_SERVER_PASSWORD_FILE",
    "LETTA_PG_PASSWORD_FILE",
    "LETTA_ENCRYPTION_KEY_FILE",
    "OPENAI_API_KEY_FILE",
)
"""Read by us, kept from Letta."""


def letta_environment(current: Mapping[str, str], settings: Settings, data: Path) -> dict[str, str]:
    """Return all variables Letta is to see.

    Args:
        current: the operator's environment.
        settings: what was read from it.
        data: Letta's own directory. It becomes HOME, because some of Letta's paths follow nothing else.
    """
    environment = {name: value for name, value in given_values(current).items() if name not in _OURS}
    environment |= {
        "LETTA_PG_URI": settings.database.letta_uri,
        "HOME": str(data),
        "LETTA_DIR": str(data),
        "LETTA_LOGGING_LETTA_LOG_PATH": str(data / "logs" / "Letta.log"),
    }
    environment |= settings.database.ssl_environment
    if settings.redis is not None:
        environment |= {"LETTA_REDIS_HOST": settings.redis.host, "LETTA_REDIS_PORT": str(settings.redis.port)}
    if settings.workers > 1:
        environment["LETTA_PG_POOL_SIZE"] = str(settings.pool_size // settings.workers)
        environment["LETTA_PG_MAX_OVERFLOW"] = str(settings.max_overflow // settings.workers)
    for name, secret in (
        ("LETTA_ENCRYPTION_KEY", settings.encryption_key),
        ("OPENAI_API_KEY", settings.openai_api_key),
    ):
        if secret is not None:
            environment[name] = secret
    # Without the slash at the end: Letta compares them with OpenAI's own address to the letter, and stores them.
    for name in environment.keys() & MODEL_ADDRESSES:
        environment[name] = tidy(environment[name])
    return {**_BETTER, **environment}
