"""The plugin at work; it is loaded for the whole repository."""

from __future__ import annotations

import psycopg
import pytest
import redis

from local_stack import fixtures
from local_stack.errors import MissingPart
from local_stack.fixtures import ProxyFactory
from local_stack.postgres import Postgres
from local_stack.valkey import Valkey


@pytest.mark.integration
@pytest.mark.parametrize("turn", ["first", "second"])
def test_redis_is_empty_and_well_whatever_the_test_before_did(redis_server: Valkey, redis_url: str, turn: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set(turn, 1)
    if turn == "first":
        redis_server.kill()
    else:
        redis_server.pause()


@pytest.mark.integration
@pytest.mark.parametrize("turn", ["first", "second"])
def test_each_test_has_a_database_of_its_own(postgres_url: str, turn: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE mine (n int)")


@pytest.mark.integration
def test_a_proxy_in_front_of_postgres(postgres_server: Postgres, tcp_proxy: ProxyFactory) -> None:
    proxy = tcp_proxy(postgres_server.url())
    with psycopg.connect(proxy.url, autocommit=True) as connection:
        connection.execute("SELECT 1")
        proxy.cut()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_missing_part_skips_locally_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not here"), fixtures.missing_parts():
        raise MissingPart("not here")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="not here"), fixtures.missing_parts():
        raise MissingPart("not here")
