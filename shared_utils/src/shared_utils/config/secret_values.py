"""Collects the secrets of a service's settings, so that its logs can hide them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote, unquote

from pydantic import BaseModel, SecretStr

_MIN_SECRET_LENGTH: Final = 6
"""A shorter secret would match parts of ordinary words."""


def secrets_of(settings: BaseModel) -> frozenset[str]:
    """Every secret value, as written and as it would stand in a URL; of a URL only the password."""
    found = set()
    for value in _values(settings):
        secret = _password(value) if "://" in value else value
        found |= {secret, unquote(secret), quote(secret, safe="")}
    return frozenset(secret for secret in found if len(secret) >= _MIN_SECRET_LENGTH)


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _values(getattr(value, name))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _values(inner)


def _password(url: str) -> str:
    # Up to the last @: a password that should have been escaped is found whole.
    credentials = url.partition("://")[2].rpartition("@")[0]
    return credentials.partition(":")[2]
