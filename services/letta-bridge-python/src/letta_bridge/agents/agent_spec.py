"""The specification of a user's agent, and its tags."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from letta_bridge.agents.model_parameters import model_parameters
from letta_bridge.letta.port import FORMER_TAG, RESTORE_TAG, AgentSpec, Block
from letta_bridge.settings import AgentSettings
from shared_utils.persistence.choices.port import IMPORTED_MS, Choice, user_key

_BRIDGE_TAG: Final = "bridge"
_USER_TAG_PREFIX: Final = "user:"
_PERSONA_TAG_PREFIX: Final = "persona:"
_ATTEMPT_TAG_PREFIX: Final = "attempt:"
"""+ idempotency token of the attempt that created the agent."""
OPT_OUT_TAG: Final = "memory-opt-out:"
"""+ ms since 1970: when the user opted out of permanent memory."""
RESTORING_TAG: Final = "bridge-restoring"
"""Tag of an agent that ``restore`` has not completed. An earlier release gave such an agent no tag of its user."""
_RESTORING_TAG_PREFIX: Final = "restoring:"
"""+ a tag that such an agent gets once it is complete."""
_TAG_TIME: Final = re.compile("[0-9]{1,15}")


class Owner(NamedTuple):
    """The owner of an agent."""

    tenant: str
    user_id: str
    persona: str


def bridge_tag(tenant: str) -> str:
    """Tag of every agent of a tenant. Releases without tenants do not find agents of a named tenant."""
    return f"{_BRIDGE_TAG}:{tenant}" if tenant else _BRIDGE_TAG


def user_tags(tenant: str, user_id: str) -> tuple[str, ...]:
    """Tags shared by all agents of a user."""
    return bridge_tag(tenant), f"{_USER_TAG_PREFIX}{user_id}"


def agent_tags(tenant: str, user_id: str, persona: str) -> tuple[str, ...]:
    """Tags of a user's agent with this persona."""
    return *user_tags(tenant, user_id), persona_tag(persona)


def restoring_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags that replace these while an agent is being restored, so that an erasure still finds it.

    They name only tenant and user, with a prefix, so that no bridge uses an incomplete agent.
    """
    named = [tag for tag in tags if tag == _BRIDGE_TAG or tag.startswith((f"{_BRIDGE_TAG}:", _USER_TAG_PREFIX))]
    return RESTORING_TAG, *(f"{_RESTORING_TAG_PREFIX}{tag}" for tag in named)


def persona_tag(persona: str) -> str:
    """The tag of every agent of a persona."""
    return f"{_PERSONA_TAG_PREFIX}{persona}"


def owner_of(tags: Collection[str]) -> tuple[str | None, str | None]:
    """User and persona of an agent; the user is None if the tags name none, or several."""
    users = [tag.removeprefix(_USER_TAG_PREFIX) for tag in tags if tag.startswith(_USER_TAG_PREFIX)]
    personas = [tag.removeprefix(_PERSONA_TAG_PREFIX) for tag in tags if tag.startswith(_PERSONA_TAG_PREFIX)]
    return users[0] if len(users) == 1 else None, personas[0] if personas else None


def users_in(tags: Iterable[str]) -> set[str]:
    """Every user that an agent's tags name."""
    return {tag.removeprefix(_USER_TAG_PREFIX) for tag in tags if tag.startswith(_USER_TAG_PREFIX)}


def of_another_tenant(tenant: str, tags: Collection[str]) -> bool:
    """Whether an agent belongs to another tenant; an agent that no bridge created belongs to none."""
    bridges = [tag for tag in tags if tag == _BRIDGE_TAG or tag.startswith(f"{_BRIDGE_TAG}:")]
    return bool(bridges) and bridge_tag(tenant) not in bridges


def identity_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags that identify an agent, without those that record its history."""
    return tuple(tag for tag in tags if not tag.startswith((_ATTEMPT_TAG_PREFIX, OPT_OUT_TAG, FORMER_TAG, RESTORE_TAG)))


def attempt_tag(token: str) -> str:
    """The tag that carries an attempt's idempotency token."""
    return f"{_ATTEMPT_TAG_PREFIX}{token}"


def opt_out_tag(choice: Choice) -> str:
    """The tag of the agents of a user who opted out."""
    return f"{OPT_OUT_TAG}{choice.chosen_ms}"


def opt_out_tags_in(tags: Iterable[str]) -> tuple[str, ...]:
    """Those of an agent's tags that hold an opt-out."""
    return tuple(tag for tag in tags if tag.startswith(OPT_OUT_TAG))


def opt_out_in(user_id: str, tags: Iterable[str]) -> Choice | None:
    """The latest opt-out in the tags of a user's agents; an unreadable time counts as the earliest."""
    times = [tag.removeprefix(OPT_OUT_TAG) for tag in opt_out_tags_in(tags)]
    if not times:
        return None
    latest = max(int(time) if _TAG_TIME.fullmatch(time) else IMPORTED_MS for time in times)
    return Choice(user_key(user_id), permanent_memory=False, chosen_ms=latest)


def agent_spec(settings: AgentSettings, owner: Owner, language: str | None, *, attempt: str = "") -> AgentSpec:
    """A new agent for the user; its name does not reveal the user, its first memory is in the user's language."""
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
        parameters=model_parameters(settings),
    )


def untouched(settings: AgentSettings, persona: str, blocks: Mapping[str, str]) -> bool:
    """Whether these memory blocks still hold the templates of a new agent, in any language."""
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
