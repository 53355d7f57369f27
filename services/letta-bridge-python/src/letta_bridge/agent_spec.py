"""What a user's agent is made of, and what it is found by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from letta_bridge.letta.port import FORMER_TAG, RESTORE_TAG, AgentSpec, Block
from letta_bridge.settings import AgentSettings


def agent_tags(user_id: str, persona: str) -> tuple[str, ...]:
    """Agents with all of these are the user's."""
    return ("bridge", f"user:{user_id}", f"persona:{persona}")


def identity_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Those of an agent's tags that say whose it is, without those that say what became of it."""
    return tuple(tag for tag in tags if not tag.startswith((FORMER_TAG, RESTORE_TAG)))


def agent_spec(settings: AgentSettings, user_id: str, persona: str, language: str | None) -> AgentSpec:
    """A new agent for the user; its name tells nothing of its user, its first memory is in the user's language."""
    templates = settings.personas[persona if persona in settings.personas else "default"]
    blocks = tuple(
        Block(label, _in_language(settings, texts, language), limit=settings.block_limit)
        for label, texts in (("persona", templates.persona), ("human", templates.human))
    )
    digest = hashlib.sha256(f"{user_id}\0{persona}".encode()).hexdigest()[:24]
    return AgentSpec(
        name=f"bridge-{digest}",
        tags=agent_tags(user_id, persona),
        model=settings.model,
        embedding=settings.embedding,
        agent_type=settings.agent_type,
        blocks=blocks,
        tools=settings.tools,
        context_window=settings.context_window,
    )


def _in_language(settings: AgentSettings, texts: Mapping[str, str], language: str | None) -> str:
    for wanted in (language or "", (language or "")[:2].lower(), settings.language):
        if wanted in texts:
            return texts[wanted]
    return next(iter(texts.values()), "")
