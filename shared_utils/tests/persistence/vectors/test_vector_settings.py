"""Which database the vectors are in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from shared_utils.config.layout import Layout
from shared_utils.config.settings import load
from shared_utils.errors import SettingsError
from shared_utils.persistence.database.config import DatabaseConfig
from shared_utils.persistence.vectors import VectorSettings, vector_database

SERVICE = DatabaseConfig.model_validate({"db_url": "postgresql://a:b@db/letta", "max_connections": 7})


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)

    vectors: VectorSettings = VectorSettings()


def given(**environ: str) -> Any:
    return load(Settings, Layout(), config=None, environ=environ).settings.vectors


def test_vector_database_defaults_to_the_services() -> None:
    assert vector_database(given(OPENGAUSS_HOST="elsewhere"), SERVICE) is SERVICE


def test_it_can_be_one_of_their_own(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("p@ss/w:rd\n")
    settings = given(
        ENABLE_OPENGAUSS="true",
        OPENGAUSS_HOST="::1",
        OPENGAUSS_PORT="15432",
        OPENGAUSS_DATABASE="my vectors",
        OPENGAUSS_USERNAME="gauss@db",
        OPENGAUSS_PASSWORD_FILE=str(secret),
        OPENGAUSS_TABLE_NAME="memories",
        OPENGAUSS_SSL_MODE="require",
    )
    config = vector_database(settings, SERVICE)
    expected = {
        "user": "gauss@db",
        "password": "p@ss/w:rd",
        "host": "::1",
        "port": "15432",
        "dbname": "my vectors",
        "sslmode": "require",
    }
    assert expected.items() <= config.parts.items()
    assert config.max_connections == 7
    assert settings.table_name == "memories"
    assert "p@ss" not in repr(settings) + repr(config)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"OPENGAUSS_TABLE_NAME": "drop table;"}, "vectors.table_name"),
        ({"OPENGAUSS_SSL_MODE": "maybe"}, "vectors.opengauss.ssl_mode"),
        ({"OPENGAUSS_PORT": "0"}, "vectors.opengauss.port"),
    ],
)
def test_invalid_vector_setting_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        given(**environ)


def test_a_user_is_needed() -> None:
    with pytest.raises(SettingsError, match="set OPENGAUSS_USERNAME and OPENGAUSS_PASSWORD"):
        vector_database(given(ENABLE_OPENGAUSS="1"), SERVICE)
