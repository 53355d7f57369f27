from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from letta_server.errors import SettingsRefused
from letta_server.settings import Redis, Settings

URI = {"LETTA_PG_URI": "postgresql://me:secret@db/letta"}
PARTS = {"LETTA_PG_HOST": "db", "LETTA_PG_USER": "me", "LETTA_PG_PASSWORD": "p@/#", "LETTA_PG_DB": "letta"}


def read(given: dict[str, str], **more: Any) -> Settings:
    return Settings.from_environment(given, **more)


def test_uri_and_parts_name_the_same_database() -> None:
    by_parts = read(PARTS | {"LETTA_PG_PORT": "6000"}).database
    assert by_parts == read({"LETTA_PG_URI": "postgresql://me:p%40%2F%23@db:6000/letta"}).database


def test_what_is_not_set_has_a_default() -> None:
    settings = read(URI)
    assert (settings.redis, settings.password, settings.wait) == (None, None, 60.0)
    assert read(URI | {"LETTA_REDIS_HOST": "cache"}).redis == Redis("cache", 6379)


def test_an_empty_variable_counts_as_unset() -> None:
    settings = read(URI | {"LETTA_REDIS_PORT": "", "LETTA_SERVER_PASSWORD": ""})
    assert (settings.redis, settings.password) == (None, None)


@pytest.mark.parametrize("name", ["LETTA_SERVER_PASSWORD", "LETTA_ENCRYPTION_KEY", "OPENAI_API_KEY"])
def test_a_blank_secret_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match=f"^{name} holds nothing but blanks"):
        read(URI | {name: " \t"})
    (tmp_path / "secret").write_text(" \n")
    with pytest.raises(SettingsRefused, match=f"^{name}_FILE names .* which is empty"):
        read(URI | {f"{name}_FILE": str(tmp_path / "secret")})


@pytest.mark.parametrize(("said", "meant"), [(None, None), ("", None), ("true", True), ("0", False), ("OFF", False)])
def test_the_kind_of_server_is_found_out_unless_it_is_said(said: str | None, meant: bool | None) -> None:
    assert read(URI if said is None else URI | {"LETTA_ENABLE_OPENGAUSS": said}).opengauss is meant


def test_secrets_come_from_files_too(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from file\n", "utf-8")
    parts = {name: value for name, value in PARTS.items() if name != "LETTA_PG_PASSWORD"}
    names = ("LETTA_PG_PASSWORD", "LETTA_SERVER_PASSWORD", "LETTA_ENCRYPTION_KEY", "OPENAI_API_KEY")
    settings = read(parts | {f"{name}_FILE": str(file) for name in names})
    found = {settings.database.password, settings.password, settings.encryption_key, settings.openai_api_key}
    assert found == {"from file"}


def test_no_secret_is_in_the_printed_form() -> None:
    secrets = {"LETTA_SERVER_PASSWORD": "s1x", "LETTA_ENCRYPTION_KEY": "s2x", "OPENAI_API_KEY": "s3x"}
    printed = repr(read(PARTS | secrets))
    assert not [secret for secret in ("s1x", "s2x", "s3x", "p@/#") if secret in printed]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "No database"),
        (URI | {"LETTA_PG_HOST": "db"}, "both set"),
        ({"LETTA_PG_HOST": "db", "LETTA_PG_USER": "me"}, "LETTA_PG_PASSWORD and LETTA_PG_DB"),
        ({"LETTA_PG_PASSWORD": "x"}, "LETTA_PG_HOST"),
        ({"LETTA_PG_PORT": "5432"}, "LETTA_PG_HOST"),
        (PARTS | {"LETTA_PG_PORT": "54x"}, "LETTA_PG_PORT"),
        (PARTS | {"LETTA_PG_PORT": "65536"}, "LETTA_PG_PORT"),
        (URI | {"LETTA_REDIS_PORT": "6379"}, "LETTA_REDIS_HOST"),
        (URI | {"LETTA_REDIS_HOST": "redis://cache"}, "bare host"),
        (URI | {"LETTA_SERVER_SECURE": "true"}, "without a password"),
        (URI | {"LETTA_SERVER_SECURE": "maybe"}, "true or false"),
        (URI | {"LETTA_ENABLE_OPENGAUSS": "perhaps"}, "LETTA_ENABLE_OPENGAUSS must be true or false"),
        (URI | {"LETTA_PG_POOL_SIZE": "many"}, "LETTA_PG_POOL_SIZE must be a whole number"),
        (URI | {"LETTA_SERVER_WAIT": "soon"}, "LETTA_SERVER_WAIT"),
        (URI | {"LETTA_SERVER_WAIT": "inf"}, "LETTA_SERVER_WAIT"),
        (URI | {"LETTA_SERVER_GRACE": "-1"}, "LETTA_SERVER_GRACE"),
        (URI | {"OPENAI_BASE_URL": "http://model/v1"}, "OPENAI_API_KEY"),
        (URI | {"OPENAI_API_KEY_FILE": "/nowhere/key"}, "/nowhere/key"),
        (URI | {"OPENAI_API_KEY": "a", "OPENAI_API_KEY_FILE": "/b"}, "keep one"),
    ],
)
def test_wrong_and_half_settings_get_one_sentence(given: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsRefused, match=named) as refusal:
        read(given)
    assert "\n" not in str(refusal.value)


def test_the_secure_flag_wants_a_password() -> None:
    with pytest.raises(SettingsRefused):
        read(URI, secure=True)
    assert read(URI | {"LETTA_SERVER_PASSWORD": "x"}, secure=True).password == "x"
