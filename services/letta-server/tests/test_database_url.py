from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest

from letta_server.database_url import DatabaseUrl
from letta_server.errors import SettingsRefused

HARD = "p@ss/w#rd:100%?&=é 中"


def test_a_uri_is_read_whole() -> None:
    url = DatabaseUrl.parse("postgresql://me:p%40ss@db.example:6543/letta%20one?sslmode=require")
    assert (url.host, url.port, url.user, url.password, url.name) == ("db.example", 6543, "me", "p@ss", "letta one")
    assert url.ssl_mode == "require"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+pg8000"])
def test_the_driver_in_the_scheme_does_not_matter(scheme: str) -> None:
    assert DatabaseUrl.parse(f"{scheme}://me@db/letta").port == 5432


def test_any_password_survives_on_its_way_to_letta_and_to_psycopg() -> None:
    url = DatabaseUrl.of_parts(host="db", port=5432, user="me@here", password=HARD, name="letta")
    parts = urlsplit(url.letta_uri)
    assert (unquote(parts.password or ""), unquote(parts.username or ""), parts.hostname) == (HARD, "me@here", "db")
    assert url.conninfo["password"] == HARD
    assert DatabaseUrl.parse(url.letta_uri).password == HARD


def test_ssl_is_off_only_where_the_operator_said_nothing() -> None:
    assert "sslmode=disable" in DatabaseUrl.parse("postgresql://me@db/letta").letta_uri
    assert "sslmode=require" in DatabaseUrl.parse("postgresql://me@db/letta?ssl=require").letta_uri


def test_certificates_go_to_the_driver_as_variables() -> None:
    url = DatabaseUrl.parse("postgresql://me@db/letta?sslmode=verify-full&sslrootcert=/ca.pem")
    assert url.ssl_environment == {"PGSSLROOTCERT": "/ca.pem"}
    assert "sslrootcert" not in url.letta_uri
    assert url.conninfo["sslrootcert"] == "/ca.pem"


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("mysql://me:topsecret@db/letta", "postgresql://"),
        ("sqlite:///letta.db", "postgresql://"),
        ("postgresql://me:topsecret@db", "no database"),
        ("postgresql://db/letta", "no user"),
        ("postgresql:///letta?host=/run", "host"),
        ("postgresql://me:topsecret@[::1]/letta", "IPv6"),
        ("postgresql://me:topsecret#1@db/letta", "percent-encode"),
        ("postgresql://me:p@topsecret/w#rd@db:5432/letta", "percent-encode"),
        ("postgresql://me:p@topsecret/w@db:5432/letta", "percent-encode"),
        ("postgresql://me:1/topsecret@db:5432/letta", "percent-encode"),
        ("postgresql://me:1?topsecret=1@db:5432/letta", "percent-encode"),
        ("postgresql://me:topsecret@db/let%3Fta", "names the database"),
        ("postgresql://me:topsecret@db:99999/letta", "percent-encode"),
        ("postgresql://me:topsecret@db/letta?sslmode=maybe", "sslmode"),
        ("postgresql://me:topsecret@db/letta?pool=3", "pool"),
    ],
)
def test_invalid_database_url_is_refused_without_its_password(uri: str, named: str) -> None:
    with pytest.raises(SettingsRefused, match=named) as refusal:
        DatabaseUrl.parse(uri)
    assert "topsecret" not in str(refusal.value)


def test_the_printed_form_hides_the_password() -> None:
    url = DatabaseUrl.parse("postgresql://me:topsecret@db/letta")
    assert "topsecret" not in f"{url} {url!r}"
