"""What a user's agent is made of, and the tags it is found by."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from letta_bridge.letta.port import AgentSpec, Block
from letta_bridge.settings import AgentSettings
from shared_utils.persistence.choices import IMPORTED_MS, Choice, user_key

_BRIDGE: Final = "bridge"
_USER: Final = "user:"
_PERSONA: Final = "persona:"
_ATTEMPT: Final = "attempt:"
"""+ token of the attempt that made the agent: whoever sent a request whose answer was lost knows its agent by it."""
_REFUSED: Final = "memory-refused:"
"""+ ms since 1970: when the user refused permanent memory. The last resort where every other copy of that was lost."""


class Owner(NamedTuple):
    """Whose an agent is."""

    tenant: str
    user_id: str
    persona: str


def bridge_tag(tenant: str) -> str:
    """The tag of every agent of this tenant: no release that knows no tenants finds those of a named one."""
    return f"{_BRIDGE}:{tenant}" if tenant else _BRIDGE


def user_tags(tenant: str, user_id: str) -> tuple[str, ...]:
    """Agents with all of these are the user's, of whatever persona."""
    return bridge_tag(tenant), f"{_USER}{user_id}"


def agent_tags(tenant: str, user_id: str, persona: str) -> tuple[str, ...]:
    """Agents with all of these are the user's with this persona."""
    return *user_tags(tenant, user_id), f"{_PERSONA}{persona}"


def owner_of(tags: Collection[str]) -> tuple[str | None, str | None]:
    """User and persona of an agent; no user where its tags name none, or several."""
    users = [tag.removeprefix(_USER) for tag in tags if tag.startswith(_USER)]
    personas = [tag.removeprefix(_PERSONA) for tag in tags if tag.startswith(_PERSONA)]
    return users[0] if len(users) == 1 else None, personas[0] if personas else None


def of_another_tenant(tenant: str, tags: Collection[str]) -> bool:
    """Whether an agent belongs to a bridge of another tenant; one that no bridge made does not."""
    made_by = [tag for tag in tags if tag == _BRIDGE or tag.startswith(f"{_BRIDGE}:")]
    return bool(made_by) and bridge_tag(tenant) not in made_by


def identity_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Those of an agent's tags that say whose it is, without those that say what became of it."""
    return tuple(tag for tag in tags if not tag.startswith((_ATTEMPT, _REFUSED)))


def attempt_tag(token: str) -> str:
    """The tag of the agent that one attempt makes."""
    return f"{_ATTEMPT}{token}"


def refusal_tag(choice: Choice) -> str:
    """The tag of the agents of a user who refused permanent memory."""
    return f"{_REFUSED}{choice.chosen_ms}"


def refusal_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Those of an agent's tags that hold a refusal."""
    return tuple(tag for tag in tags if tag.startswith(_REFUSED))


def refusal_in(user_id: str, tags: Iterable[str]) -> Choice | None:
    """The latest refusal in the tags of a user's agents; where its time cannot be read it is the earliest choice."""
    times = [tag.removeprefix(_REFUSED) for tag in refusal_tags(tags)]
    if not times:
        return None
    latest = max(int(time) if time.isascii() and time.isdigit() else IMPORTED_MS for time in times)
    return Choice(user_key(user_id), permanent_memory=False, chosen_ms=latest)


def agent_spec(settings: AgentSettings, owner: Owner, language: str | None, *, attempt: str = "") -> AgentSpec:
    """A new agent for the user; its name tells nothing of its user, its first memory is in the user's language."""
    blocks = tuple(
        Block(label, _in_language(settings, texts, language), limit=settings.block_limit)
        for label, texts in _templates(settings, owner.persona).items()
    )
    whose = (owner.user_id, owner.persona) if not owner.tenant else (owner.tenant, owner.user_id, owner.persona)
    digest = hashlib.sha256("\0".join(whose).encode()).hexdigest()[:24]
    return AgentSpec(
        name=f"bridge-{digest}",
        tags=agent_tags(*owner) + ((attempt_tag(attempt),) if attempt else ()),
        model=settings.model,
        embedding=settings.embedding,
        agent_type=settings.agent_type,
        blocks=blocks,
        tools=settings.tools,
        context_window=settings.context_window,
    )


def untouched(settings: AgentSettings, persona: str, blocks: Mapping[str, str]) -> bool:
    """Whether these memory blocks are as a new agent has them, in whatever language."""
    templates = _templates(settings, persona)
    return all(label in templates and value in {*templates[label].values(), ""} for label, value in blocks.items())


def _templates(settings: AgentSettings, persona: str) -> dict[str, Mapping[str, str]]:
    configured = settings.personas[persona if persona in settings.personas else "default"]
    return {"persona": configured.persona, "human": configured.human}


def _in_language(settings: AgentSettings, texts: Mapping[str, str], language: str | None) -> str:
    for wanted in (language or "", (language or "")[:2].lower(), settings.language):
        if wanted in texts:
            return texts[wanted]
    return next(iter(texts.values()), "")
