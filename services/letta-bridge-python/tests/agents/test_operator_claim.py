"""An operator's command acts on the agents that the queue's bridges use, or on none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from letta_bridge.agents.operator_claim import require_own_agents
from letta_bridge.agents.tenant_claim import ClaimState, TenantClaim
from letta_bridge.cli import own_agents
from letta_bridge.errors import TenantTaken
from letta_bridge.main import app
from letta_bridge.request_queue.identity import QueueIdentity
from letta_bridge.request_queue.keys import Keys
from letta_bridge.request_queue.served_letta import ServedLetta
from letta_bridge.settings import BridgeSettings
from letta_bridge.testing.letta import InMemoryLetta
from shared_utils.redis.connection import RedisClient

pytestmark = pytest.mark.integration
KEYS = Keys("letta_requests")


@pytest.fixture
def letta() -> InMemoryLetta:
    return InMemoryLetta()


def settings_of(tenant: str = "", *, shards: bool = False) -> BridgeSettings:
    return BridgeSettings.model_validate({"tenant": {"name": tenant, "shards": shards}})


def bridge(client: Any, tenant: str, keys: Keys = KEYS) -> Any:
    """The claim of one bridge."""
    return TenantClaim(tenant, keys.requests, QueueIdentity(client, keys), ServedLetta(client, keys, "b"))


class Waiting:
    """A pause of the command, in which other bridges send a heartbeat at the n-th second."""

    def __init__(self, beat: Callable[..., Any] | None = None, at: int = 13) -> None:
        self.seconds = 0
        self._beat = beat
        self._at = at

    async def __call__(self, seconds: Any) -> None:
        self.seconds += seconds
        if self._beat is not None and self.seconds == self._at:
            await self._beat()


@pytest.mark.parametrize("tenant", ["", "acme"])
async def test_command_with_the_settings_of_the_bridges_continues_without_waiting(
    client: RedisClient, letta: InMemoryLetta, tenant: str
) -> None:
    await bridge(client, tenant).beat(letta)
    pause = Waiting()
    await require_own_agents(settings_of(tenant), client, letta, pause=pause)
    assert pause.seconds == 0


@pytest.mark.parametrize(("served", "asked"), [("acme", ""), ("", "acme"), ("acme", "shop")])
@pytest.mark.parametrize("other_is_served", [False, True])
async def test_command_with_another_tenant_is_refused(
    client: Any, letta: Any, served: Any, asked: Any, other_is_served: bool
) -> None:
    await bridge(client, served).beat(letta)
    if other_is_served:
        await bridge(client, asked, Keys("other")).beat(letta)
    with pytest.raises(TenantTaken, match=f"another tenant than '{asked}'.*nothing was changed.*TENANT.*LETTA_API_URL"):
        await require_own_agents(settings_of(asked), client, letta)


async def test_command_after_the_queue_has_changed_its_tenant_is_refused_under_the_earlier_one(
    client: Any, letta: Any
) -> None:
    await bridge(client, "").beat(letta)
    await client.delete(KEYS.letta)
    await bridge(client, "acme").beat(letta)
    with pytest.raises(TenantTaken):
        await require_own_agents(settings_of(""), client, letta)


async def test_command_with_another_letta_is_refused(client: Any, letta: Any) -> None:
    await bridge(client, "").beat(letta)
    with pytest.raises(TenantTaken, match="another Letta"):
        await require_own_agents(settings_of(), client, InMemoryLetta())


async def test_command_on_a_queue_that_is_not_served_is_refused_while_another_queue_has_the_tenant(
    client: Any, letta: InMemoryLetta
) -> None:
    other = bridge(client, "", Keys("other"))
    await other.beat(letta)
    await client.delete(Keys("other").letta)
    with pytest.raises(TenantTaken, match="the queue 'other' serves the tenant ''"):
        await require_own_agents(settings_of(), client, letta, pause=Waiting(lambda: other.beat(letta)))
    assert not await client.exists(KEYS.identity, KEYS.letta)


async def test_command_continues_where_the_other_queue_is_served_no_longer(client: Any, letta: Any) -> None:
    await bridge(client, "", Keys("other")).beat(letta)
    pause = Waiting()
    await require_own_agents(settings_of(), client, letta, pause=pause)
    assert pause.seconds > 15


async def test_command_continues_where_nothing_is_served_or_said(client: Any, letta: Any) -> None:
    await require_own_agents(settings_of("acme"), client, letta, pause=Waiting())
    own = bridge(client, "acme")
    await own.beat(letta)
    await client.delete(KEYS.letta)  # all bridges have stopped
    await require_own_agents(settings_of("acme"), client, letta, pause=Waiting())
    await bridge(client, "", Keys("other")).beat(letta)
    await require_own_agents(settings_of(shards=True), client, letta, pause=Waiting())
    letta.down = True
    await require_own_agents(settings_of("shop"), client, letta, pause=Waiting())
    assert own.state is ClaimState.HELD


COMMANDS = (
    ("user", "show", "ada"),
    ("user", "export", "ada", "--to", "export"),
    ("user", "erase", "ada", "--dry-run"),
    ("user", "erase", "ada", "--yes"),
    ("sessions", "duplicates"),
    ("sessions", "settings", "ada", "--no-permanent-memory"),
    ("backup", "backup"),
    ("restore", "."),
    ("vectors", "sync"),
)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_that_acts_on_agents_refuses_another_tenant_and_does_nothing(
    arguments: tuple[Any, ...], redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letta: InMemoryLetta
) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_agents, "letta_client", lambda _settings: letta)
    variables = {
        "LETTA_BRIDGE_CONFIG": str(tmp_path / "config.json"),
        "DATA_DIR": str(tmp_path / "data"),
        "TERM": "dumb",
        "REDIS_URL": redis_url,
        "LETTA_API_URL": "http://127.0.0.1:1",
        "DATABASE_URL": "postgresql://x@127.0.0.1:1/x",
        "VECTORS_ENABLED": "true",
    }
    with redis.Redis.from_url(redis_url) as client:
        client.set(KEYS.letta, "block-of-acme")
        result = CliRunner().invoke(app, arguments, env=variables)
        assert (result.exit_code, "under another tenant than ''" in result.output) == (2, True), result.output
        assert client.keys() == [KEYS.letta.encode()]
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
