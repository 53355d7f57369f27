"""The plugin does not let a test run on another engine than the one it names."""

from __future__ import annotations

import pytest

from local_stack.databases import ENGINES, _is
from opengauss_double import PROFILES
from shared_utils.persistence.dialects import recognise


@pytest.fixture
def engine_url(postgres_url: str) -> str:
    """Whatever is asked for, a PostgreSQL."""
    return postgres_url


@pytest.mark.integration
@pytest.mark.parametrize("engine", ["opengauss-6.0"], indirect=True)
def test_a_database_on_another_engine_fails_the_test(engine: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(pytest.fail.Exception, match=f"asks for {engine} and would run on PostgreSQL"):
        request.getfixturevalue("database")


@pytest.mark.parametrize("asked", [*ENGINES, "opengauss-6.0.2", "postgresql-plain"])
def test_each_engine_is_distinguished_from_all_others(asked: str) -> None:
    versions = {f"opengauss-{name}": profile.version for name, profile in PROFILES.items()}
    versions |= {"postgresql": "PostgreSQL 16.4 on x86_64", "postgresql-plain": "PostgreSQL 16.4 on x86_64"}
    fitting = {engine for engine, version in versions.items() if _is(recognise(version), asked)}
    assert fitting == (
        {"postgresql", "postgresql-plain"} if asked.startswith("postgresql") else {asked.partition("/")[0]}
    )
