"""Every secret of the settings is found, in whatever form a log line may hold it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from shared_utils.config.secret_values import secrets_of


class Inner(BaseModel):
    key: SecretStr | None = None


class Settings(BaseModel):
    url: SecretStr | None = None
    plain: str = "innocent"
    inner: Inner = Inner()
    named: dict[str, Inner] = {}


@pytest.mark.parametrize(
    ("settings", "secrets"),
    [
        (Settings(), []),
        (Settings(inner=Inner(key=SecretStr("hunter22"))), ["hunter22"]),
        (Settings(named={"a": Inner(key=SecretStr("hunter22"))}), ["hunter22"]),
        (Settings(inner=Inner(key=SecretStr("short"))), []),
        (Settings(url=SecretStr("redis://localhost:6379/0")), []),
        (Settings(url=SecretStr("redis://:hunter22@h:1/0")), ["hunter22"]),
        (Settings(url=SecretStr("redis+sentinel://u:hunter22@h1:1,h2:2/name")), ["hunter22"]),
        (Settings(url=SecretStr("redis://u:hun%2Fter22@h")), ["hun%2Fter22", "hun/ter22", "hun%252Fter22"]),
        (Settings(url=SecretStr("redis://u:hun/t@er22@h")), ["hun/t@er22", "hun%2Ft%40er22"]),
    ],
    ids=str,
)
def test_every_secret_of_the_settings_is_collected(settings: Settings, secrets: list[Any]) -> None:
    assert secrets_of(settings) == set(secrets)
