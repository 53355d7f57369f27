from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from letta_server.errors import SettingsRefused
from letta_server.settings import EmbeddingModel, Redis, Settings

URI = {"LETTA_PG_URI": "postgresql://me:secret@db/letta"}
PARTS = {"LETTA_PG_HOST": "db", "LETTA_PG_USER": "me", "LETTA_PG_PASSWORD": "p@/#", "LETTA_PG_DB": "letta"}


def read(given: dict[str, str], **more: Any) -> Settings:
    return Settings.from_environment(given, **more)


def test_uri_and_parts_name_the_same_database() -> None:
    by_parts = read(PARTS | {"LETTA_PG_PORT": "6000"}).database
    assert by_parts == read({"LETTA_PG_URI": "postgresql://me:p%40%2F%23@db:6000/letta"}).database


def test_unset_settings_have_defaults() -> None:
    settings = read(URI)
    assert (settings.redis, settings.password, settings.wait) == (None, None, 60.0)
    assert read(URI | {"LETTA_REDIS_HOST": "cache"}).redis == Redis("cache", 6379)


def test_an_embedding_model_of_ones_own_is_named_with_its_dimensions() -> None:
    given = URI | {"OPENAI_API_KEY": "any", "LETTA_SERVER_EMBEDDING_MODEL": "bge-m3:latest"}
    assert read(URI).embedding_model is None
    named = read(given | {"LETTA_SERVER_EMBEDDING_DIMENSIONS": "1024"}).embedding_model
    assert named == EmbeddingModel("bge-m3:latest", 1024)
    for dimensions, sentence in (("", "belong together"), ("0", "must be 1 to 4096"), ("4097", "not 4097")):
        with pytest.raises(SettingsRefused, match=sentence):
            read(given | {"LETTA_SERVER_EMBEDDING_DIMENSIONS": dimensions})
    with pytest.raises(SettingsRefused, match="without OPENAI_API_KEY"):
        read(given | {"OPENAI_API_KEY": "", "LETTA_SERVER_EMBEDDING_DIMENSIONS": "1024"})


@pytest.mark.parametrize(("said", "meant"), [(None, False), ("", False), ("false", False), ("true", True)])
def test_only_the_bridges_operations_are_served_unless_configured(said: str | None, meant: bool) -> None:
    assert read(URI if said is None else URI | {"LETTA_SERVER_FULL_API": said}).full_api is meant


def test_an_empty_variable_counts_as_unset() -> None:
    settings = read(URI | {"LETTA_REDIS_PORT": "", "LETTA_SERVER_PASSWORD": ""})
    assert (settings.redis, settings.password) == (None, None)


@pytest.mark.parametrize("name", ["LETTA_SERVER_PASSWORD", "LETTA_ENCRYPTION_KEY", "OPENAI_API_KEY"])
def test_a_blank_secret_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match=f"^{name} contains only blanks"):
        read(URI | {name: " \t"})
    (tmp_path / "secret").write_text(" \n")
    with pytest.raises(SettingsRefused, match=f"^{name}_FILE names .* which is empty"):
        read(URI | {f"{name}_FILE": str(tmp_path / "secret")})


@pytest.mark.parametrize(("said", "meant"), [(None, None), ("", None), ("true", True), ("0", False), ("OFF", False)])
def test_database_product_is_detected_unless_configured(said: str | None, meant: bool | None) -> None:
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
        (URI | {"LETTA_REDIS_HOST": "redis://cache"}, "only a host"),
        (URI | {"LETTA_SERVER_SECURE": "true"}, "requires a password"),
        (URI | {"LETTA_SERVER_SECURE": "maybe"}, "true or false"),
        (URI | {"LETTA_SERVER_FULL_API": "ade"}, "LETTA_SERVER_FULL_API must be true or false"),
        (URI | {"LETTA_ENABLE_OPENGAUSS": "perhaps"}, "LETTA_ENABLE_OPENGAUSS must be true or false"),
        (URI | {"LETTA_PG_POOL_SIZE": "many"}, "LETTA_PG_POOL_SIZE must be a whole number"),
        (URI | {"LETTA_SERVER_WORKERS": "all"}, "LETTA_SERVER_WORKERS must be a whole number"),
        (URI | {"LETTA_SERVER_WORKERS": "0"}, "LETTA_SERVER_WORKERS must be a whole number from 1 to 64"),
        (URI | {"LETTA_SERVER_WORKERS": "8"}, "8 workers share the 35 connections"),
        (URI | {"LETTA_SERVER_WORKERS": "2", "LETTA_PG_POOL_SIZE": "1"}, "are too few"),
        (URI | {"LETTA_SERVER_WAIT": "soon"}, "LETTA_SERVER_WAIT"),
        (URI | {"LETTA_SERVER_WAIT": "inf"}, "LETTA_SERVER_WAIT"),
        (URI | {"LETTA_SERVER_GRACE": "-1"}, "LETTA_SERVER_GRACE"),
        (URI | {"OPENAI_BASE_URL": "http://model/v1"}, "OPENAI_API_KEY"),
        (URI | {"OPENAI_API_KEY": "a", "OPENAI_BASE_URL": "model/v1"}, "OPENAI_BASE_URL must be a URL"),
        (URI | {"OPENAI_API_KEY": "a", "OPENAI_API_BASE": "http://me:a/b@model/v1"}, "OPENAI_API_BASE must be a URL"),
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


def test_the_command_line_decides_on_the_workers() -> None:
    assert (read(URI).workers, read(URI | {"LETTA_SERVER_WORKERS": "2"}).workers) == (1, 2)
    assert read(URI | {"LETTA_SERVER_WORKERS": "3"}, workers=2).workers == 2
    assert read(URI | {"LETTA_SERVER_WORKERS": "8", "LETTA_PG_POOL_SIZE": "40"}).workers == 8


def test_several_workers_are_refused_where_they_do_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert read(URI).workers == 1
    with pytest.raises(SettingsRefused, match="need Linux"):
        read(URI, workers=2)


@pytest.mark.parametrize("left", ["\n", "\r\n", "\ufeff", "\u200b"], ids=ascii)
def test_line_ends_and_quotes_around_values_are_stripped(left: str, tmp_path: Path) -> None:
    given = {name: f"{value}{left}" for name, value in PARTS.items()}
    settings = read(given | {"OPENAI_API_KEY": f'"sk-1"{left}', "LETTA_SERVER_SECURE": f"TRUE{left}", **password(left)})
    assert settings.database == read(PARTS).database
    assert (settings.openai_api_key, settings.password) == ("sk-1", "open sesame")
    file = tmp_path / "key"
    file.write_text(f"\ufeffsk-1{left}\n", "utf-8")
    assert read(URI | {"OPENAI_API_KEY_FILE": str(file)}).openai_api_key == "sk-1"


def password(left: str) -> dict[str, str]:
    return {"LETTA_SERVER_PASSWORD": f"open sesame{left}"}


def test_the_encryption_key_is_never_changed(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("\ufeff'key' \n", "utf-8")
    assert read(URI | {"LETTA_ENCRYPTION_KEY": "'key'\n"}).encryption_key == "'key'\n"
    assert read(URI | {"LETTA_ENCRYPTION_KEY_FILE": str(file)}).encryption_key == "\ufeff'key' "


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"OPENAI_API_KEY": "sk-中"}, "OPENAI_API_KEY cannot be sent"),
        ({"ANTHROPIC_API_KEY": "sk\u00e4"}, "ANTHROPIC_API_KEY cannot be sent"),
        ({"LETTA_SERVER_PASSWORD": "hunter\u4e2d"}, "LETTA_SERVER_PASSWORD cannot be sent"),
        ({"LETTA_SERVER_PASSWORD": "hunter\n2"}, "LETTA_SERVER_PASSWORD contains a line break"),
        ({"OPENAI_API_KEY": "sk\udcff"}, "OPENAI_API_KEY contains bytes that are not UTF-8"),
    ],
)
def test_unsendable_secret_is_refused_by_its_variables_name(given: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsRefused, match=named) as refusal:
        read(URI | given)
    assert not [value for value in given.values() if value in str(refusal.value)]


def test_kubernetes_variables_of_a_service_named_letta_redis_are_ignored() -> None:
    assert read(URI | {"LETTA_REDIS_PORT": "tcp://10.96.0.1:6379"}).redis is None
    hosted = read(URI | {"LETTA_REDIS_PORT": "tcp://10.96.0.1:6379", "LETTA_REDIS_HOST": "cache"})
    assert hosted.redis == Redis("cache", 6379)
    assert read(PARTS | {"LETTA_PG_PORT": "tcp://10.96.0.1:5432"}).database == read(PARTS).database
