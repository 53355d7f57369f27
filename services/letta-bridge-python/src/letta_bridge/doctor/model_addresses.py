"""Compares the addresses at which agents call their models with those of Letta's providers.

Letta writes a provider's address into each agent when it creates it. When the model moves, agents keep the old one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Protocol

from letta_bridge.agents.agent_spec import bridge_tag
from letta_bridge.doctor.findings import Finding, ok, warn
from shared_utils.llm.model_address import same, shown, tidy

if TYPE_CHECKING:
    from letta_bridge.letta.responses import AgentAddress


class Addresses(Protocol):
    """What is asked of one Letta server."""

    async def provider_addresses(self) -> Mapping[str, str]:
        """Provider → address."""
        ...

    async def agent_addresses(self, tag: str, *, newest_first: bool, after: str | None = None) -> list[AgentAddress]:
        """A page of agents."""
        ...


async def examine(letta: Addresses, tenant: str, subject: str, *, deep: bool) -> Finding:
    """One finding about the agents of a tenant: the oldest and the newest ones, or every one.

    Args:
        letta: the server.
        tenant: the queue's.
        subject: of the finding.
        deep: look at every agent.

    Raises:
        LettaError: Letta cannot be asked.
    """
    providers = await letta.provider_addresses()
    seen: set[str] = set()
    astray: Counter[tuple[str, str]] = Counter()
    async for agent in _agents(letta, bridge_tag(tenant), deep=deep):
        provider = providers.get(agent.provider or "")
        if agent.agent_id not in seen and provider and agent.address and not same(provider, agent.address):
            astray[shown(tidy(agent.address)), tidy(provider)] += 1
        seen.add(agent.agent_id)
    looked = f"{len(seen)} agents looked at" if seen else "there are no agents yet"
    if not astray:
        return ok(subject, f"agents have the address of their provider ({looked})")
    (old, new), _ = astray.most_common(1)[0]
    # A login or a query of the provider's is not to be written down: without --to, agents get OPENAI_BASE_URL.
    target = f" --to {new}" if shown(new) == new else ""
    provider = (
        " with another login than Letta's provider"
        if old == shown(new)
        else (f", but Letta's provider is at {shown(new)}")
    )
    return warn(
        subject,
        f"{sum(astray.values())} of {looked} call their model at {old}{provider}",
        f"move them: letta-server repoint --from {old}{target}, first without and then with --yes",
    )


async def _agents(letta: Addresses, tag: str, *, deep: bool) -> AsyncIterator[AgentAddress]:
    page = await letta.agent_addresses(tag, newest_first=False)
    while page:
        for agent in page:
            yield agent
        if not deep:
            break
        page = await letta.agent_addresses(tag, newest_first=False, after=page[-1].agent_id)
    if not deep:
        for agent in await letta.agent_addresses(tag, newest_first=True):
            yield agent
