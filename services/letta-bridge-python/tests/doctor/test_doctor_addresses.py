"""Where agents call their model, compared with Letta's providers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import httpx
import psycopg
import pytest

from letta_bridge.doctor import Level, letta_server, model_addresses
from letta_bridge.doctor.findings import Finding
from letta_bridge.letta.responses import AgentAddress, agent_address
from letta_bridge.settings import BridgeSettings
from local_stack.letta import Letta
from local_stack.postgres import Postgres

NEW, OLD = "http://new/v1", "http://old/v1"


class Addresses:
    """A Letta with these agents, two a page."""

    def __init__(self, providers: Mapping[str, str], *agents: tuple[str | None, str | None]) -> None:
        self._providers = providers
        self._agents = [AgentAddress(f"agent-{number}", *agent) for number, agent in enumerate(agents)]

    async def provider_addresses(self) -> Mapping[str, str]:
        return self._providers

    async def agent_addresses(self, tag: str, *, newest_first: bool, after: str | None = None) -> list[AgentAddress]:
        assert tag == "bridge:tenant"
        agents = self._agents[::-1] if newest_first else self._agents
        start = 0 if after is None else 1 + [agent.agent_id for agent in agents].index(after)
        return agents[start : start + 2]


async def examine(*agents: tuple[str | None, str | None], deep: bool = False, provider: str = NEW) -> Finding:
    letta = Addresses({"openai": provider}, *agents)
    return await model_addresses.examine(letta, "tenant", "letta.addresses", deep=deep)


async def test_agents_at_their_providers_address_are_fine() -> None:
    agents = [("openai", NEW), ("openai", f"{NEW}/"), ("mine", OLD), (None, None), ("openai", None)]
    finding = await examine(*agents, deep=True)
    assert (finding.level, "5 agents looked at" in finding.says) == (Level.OK, True)
    assert (await examine()).level is Level.OK


async def test_agents_elsewhere_are_named_with_the_command() -> None:
    finding = await examine(("openai", NEW), ("openai", OLD), ("openai", OLD), ("openai", "http://older/v1"))
    assert finding.level is Level.WARN
    assert f"letta-server repoint --from {OLD} --to {NEW}" in finding.advice
    assert finding.says.startswith("3 of 4 agents looked at")


async def test_no_login_is_shown() -> None:
    finding = await examine(("openai", "http://me:s3cret@old/v1"), provider="http://me:s3cret@new/v1?key=s3cret")
    assert finding.level is Level.WARN
    assert "s3cret" not in finding.says + finding.advice


async def test_a_login_of_the_providers_reaches_the_agents() -> None:
    login = "http://me:s3cret@new/v1"
    finding = await examine(("openai", OLD), provider=login)
    assert f"letta-server repoint --from {OLD}, first" in finding.advice, "with --to, agents would lose the login"
    finding = await examine(("openai", "http://me:older@new/v1"), ("openai", NEW), provider=login)
    assert (finding.level, "2 of 2 agents looked at" in finding.says) == (Level.WARN, True)
    assert "at http://new/v1 with another login" in finding.says
    assert f"letta-server repoint --from {NEW}, first" in finding.advice


@pytest.mark.parametrize("address", ["http://NEW:80/v1/", "http://me:s3cret@new/v1", "http://new/v1?key=s3cret"])
async def test_other_forms_of_the_providers_address_are_fine(address: str) -> None:
    assert (await examine(("openai", address))).level is Level.OK


async def test_an_address_that_is_no_url_is_named() -> None:
    finding = await examine(("openai", "http://[broken/v1"))
    assert (finding.level, "http://[broken/v1" in finding.says) == (Level.WARN, True)


async def test_only_the_deep_look_reads_every_agent() -> None:
    agents = [("openai", NEW), ("openai", NEW), ("openai", OLD), ("openai", NEW), ("openai", NEW)]
    assert (await examine(*agents)).level is Level.OK
    assert (await examine(*agents, deep=True)).level is Level.WARN


@pytest.mark.parametrize(
    ("agent", "provider"),
    [
        ({"id": "agent-1"}, None),
        ({"id": "agent-1", "llm_config": None}, None),
        ({"id": "agent-1", "llm_config": {"provider_name": "mine", "provider_category": "byok"}}, None),
        ({"id": "agent-1", "llm_config": {"provider_name": "openai", "model_endpoint": OLD}}, "openai"),
    ],
)
def test_an_agent_of_an_added_provider_has_no_place_of_its_own(agent: Any, provider: str | None) -> None:
    assert agent_address(agent).provider == provider


@pytest.mark.letta
@pytest.mark.integration
async def test_doctor_finds_moved_agents_and_leaves_nothing_in_lettas_log(
    letta: Letta, postgres_server: Postgres
) -> None:
    tenant = f"moved_{uuid.uuid4().hex[:8]}"
    agents = {"model": letta.model, "embedding": letta.embedding}
    settings = BridgeSettings.model_validate(
        {
            "letta": {"api_urls": [letta.url], "api_key": letta.api_key},
            "agents": agents,
            "tenant": {"name": tenant},
        }
    )
    headers = {"Authorization": f"Bearer {letta.api_key}"}
    spec = {"name": "moved", "tags": [f"bridge:{tenant}"], "include_base_tools": False, **agents}
    async with httpx.AsyncClient(base_url=letta.url, headers=headers, timeout=60, trust_env=False) as client:
        created = await client.post("/v1/agents/", json=spec)
    agent_id = created.json()["id"]

    async def addresses() -> Finding:
        findings = [finding async for finding in letta_server.examine(settings, letta.url, deep=True)]
        assert not [finding for finding in findings if finding.level is Level.FAIL], findings
        [found] = [finding for finding in findings if finding.subject == "letta.addresses"]
        return found

    before = len(letta.log.read_text("utf-8"))
    assert (await addresses()).level is Level.OK
    with psycopg.connect(postgres_server.url("letta"), autocommit=True) as database:
        database.execute(
            "UPDATE agents SET llm_config = jsonb_set(llm_config::jsonb, '{model_endpoint}', %s)::json WHERE id = %s",
            [f'"{OLD}"', agent_id],
        )
    found = await addresses()
    assert (found.level, f"--from {OLD} --to http://127.0.0.1" in found.advice) == (Level.WARN, True)
    log = letta.log.read_text("utf-8")[before:]
    assert "Traceback" not in log
    assert not [line for line in log.splitlines() if '"level": "warning"' in line or '"level": "error"' in line]
