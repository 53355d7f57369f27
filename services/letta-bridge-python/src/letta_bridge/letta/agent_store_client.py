"""The Letta V1 server as an :class:`~letta_bridge.letta.agent_store.AgentStore`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from letta_bridge.errors import LettaRejected
from letta_bridge.letta.agent_store import (
    AgentDescription,
    Json,
    StoredArchive,
    StoredBlock,
    StoredConversation,
    StoredMessage,
    StoredPassage,
)
from letta_bridge.letta.exact_rows import ExactReader
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.letta.listed_rows import Listed, listed_row, own_otid
from letta_bridge.letta.port import AgentRef

_MESSAGES_PER_PAGE: Final = 500
"""Messages per page."""
_PASSAGES_PER_PAGE: Final = 50
"""Passages per page: Letta sends 4096 numbers with each."""
_ITEMS_PER_PAGE: Final = 50
_PASSAGES_PER_CALL: Final = 50
"""Passages per call: Letta embeds all of them before it answers."""
_LONG_CALL_TIMEOUT_SECONDS: Final = 1800.0
"""Seconds for a call whose duration grows with the agent: writing 50 000 messages takes 20."""

_Shape = TypeVar("_Shape", dict[str, Any], list[Any])

_RELATED: Final = tuple(
    f"agent.{name}" for name in ("blocks", "identities", "managed_group", "secrets", "sources", "tags", "tools")
)
"""Relations that Letta includes in an agent only on request."""
_PARTS: Final = frozenset(
    {"blocks", "memory", "tools", "secrets", "tool_exec_environment_variables", "message_ids", "tags", "name", "id"}
)
"""Fields that a description holds outside of ``settings``, or that are derived."""
_BLOCK_OWN: Final = frozenset({"id", "created_by_id", "last_updated_by_id", "created_at", "updated_at"})
_TOOL_OWN: Final = _BLOCK_OWN
_ARCHIVE_SETTINGS: Final = ("name", "description", "embedding_config")
_CONVERSATION_SETTINGS: Final = ("model", "model_settings")


class LettaAgentStore:
    """See :class:`~letta_bridge.letta.agent_store.AgentStore`.

    Args:
        client: the server; this store does not close it.
    """

    def __init__(self, client: LettaClient) -> None:
        self._client = client
        self._reader = ExactReader(client)

    async def find(self, tags: Sequence[str]) -> list[AgentRef]:
        return await self._client.find_agents(tags)

    async def get(self, agent_id: str) -> AgentRef:
        return await self._client.get_agent(agent_id)

    async def delete(self, agent_id: str) -> bool:
        return await self._client.delete_agent(agent_id)

    async def describe(self, agent_id: str) -> AgentDescription:
        # Read before the agent: anything newer belongs to a turn that began after this description.
        newest = await self._list(_agent(agent_id, "messages"), limit=1, order="desc")
        state = await self._object("GET", _agent(agent_id), query={"include": list(_RELATED)})
        blocks = [block for block in state.get("blocks") or [] if isinstance(block, Mapping)]
        return AgentDescription(
            agent=AgentRef(agent_id, str(state.get("name", "")), _texts(state.get("tags")), str(state["created_at"])),
            settings={name: value for name, value in state.items() if name not in _PARTS},
            blocks=tuple([await self._block(block) for block in blocks]),
            tools=tuple(_without(tool, _TOOL_OWN) for tool in state.get("tools") or []),
            variables=_variables(state),
            context=_texts(state.get("message_ids")),
            newest=str(newest[0]["id"]) if newest else None,
            left_out=_left_out(state),
        )

    async def messages(self, described: AgentDescription) -> AsyncIterator[StoredMessage]:
        agent_id, llm_config = described.agent.agent_id, described.settings.get("llm_config")
        awaited = {*described.context, *([described.newest] if described.newest else ())}
        after: str | None = None
        while awaited:
            listed = await self._list(
                _agent(agent_id, "messages"),
                limit=_MESSAGES_PER_PAGE,
                order="asc",
                after=after,
                use_assistant_message=False,
            )
            if not listed:
                break
            after = str(listed[-1]["id"])
            page = list(_until(_by_message(listed), awaited))
            for message in await self._exact(page, llm_config):
                yield message
        # Letta's list omits messages without content.
        unlisted = [message_id for message_id in described.context if message_id in awaited]
        for message_id, row in zip(unlisted, await self._reader.rows(unlisted, llm_config), strict=True):
            if row is not None:
                yield StoredMessage(message_id, row)

    async def conversations(self, agent_id: str) -> Sequence[StoredConversation]:
        found: list[StoredConversation] = []
        while True:
            after = found[-1].conversation_id if found else None
            page = await self._list(
                "/v1/conversations/", agent_id=agent_id, limit=_ITEMS_PER_PAGE, order="asc", after=after
            )
            found += [await self._conversation(one) for one in page]
            if len(page) < _ITEMS_PER_PAGE:
                return found

    async def archives(self, agent_id: str) -> Sequence[StoredArchive]:
        page = await self._list("/v1/archives/", agent_id=agent_id, limit=_ITEMS_PER_PAGE, order="asc")
        return [
            StoredArchive(
                archive_id=str(one["id"]),
                settings={name: one[name] for name in _ARCHIVE_SETTINGS if one.get(name) is not None},
                shared=await self._shared(f"/v1/archives/{_quoted(one['id'])}/agents"),
            )
            for one in page
        ]

    async def passages(self, agent_id: str) -> AsyncIterator[StoredPassage]:
        after: str | None = None
        while True:
            page = await self._list(
                _agent(agent_id, "archival-memory"), limit=_PASSAGES_PER_PAGE, ascending=True, after=after
            )
            for one in page:
                yield StoredPassage(
                    passage_id=str(one["id"]),
                    archive_id=str(one.get("archive_id")),
                    text=str(one.get("text", "")),
                    created_at=str(one.get("created_at") or ""),
                    tags=_texts(one.get("tags")),
                    metadata=one.get("metadata") or {},
                )
            if len(page) < _PASSAGES_PER_PAGE:
                return
            after = str(page[-1]["id"])

    async def write(self, agent_file: Path, variables: Mapping[str, str]) -> str:
        with agent_file.open("rb") as file:  # a file of our own; httpx reads it piece by piece
            return await self._client.import_agent_file(file, variables=variables, timeout=_LONG_CALL_TIMEOUT_SECONDS)

    async def set_context(self, agent_id: str, message_ids: Sequence[str]) -> None:
        await self._client.request("PATCH", _agent(agent_id), body={"message_ids": list(message_ids)})

    async def recompile(self, agent_id: str) -> None:
        await self._client.request("POST", _agent(agent_id, "recompile"))

    async def retag(self, agent_id: str, tags: Sequence[str]) -> None:
        await self._client.request("PATCH", _agent(agent_id), body={"tags": list(tags)})

    async def attach_block(self, agent_id: str, block_id: str) -> bool:
        return await self._attached(_agent(agent_id, f"core-memory/blocks/attach/{_quoted(block_id)}"))

    async def make_archive(self, settings: Json) -> str:
        return str((await self._object("POST", "/v1/archives/", body=settings))["id"])

    async def attach_archive(self, agent_id: str, archive_id: str) -> bool:
        return await self._attached(_agent(agent_id, f"archives/attach/{_quoted(archive_id)}"))

    async def add_passages(self, archive_id: str, passages: Sequence[StoredPassage]) -> None:
        archive = await self._object("GET", f"/v1/archives/{_quoted(archive_id)}")
        # Letta's batch endpoint fails for an archive without an embedding model.
        size = _PASSAGES_PER_CALL if archive.get("embedding_config") else 1
        path = f"/v1/archives/{_quoted(archive_id)}/passages"
        for start in range(0, len(passages), size):
            batch = [_new_passage(passage) for passage in passages[start : start + size]]
            if size == 1:
                await self._client.request("POST", path, body=batch[0], timeout=_LONG_CALL_TIMEOUT_SECONDS)
            else:
                await self._client.request(
                    "POST", f"{path}/batch", body={"passages": batch}, timeout=_LONG_CALL_TIMEOUT_SECONDS
                )

    async def fork(self, agent_id: str, conversation: StoredConversation) -> str:
        path = "/v1/conversations/default/fork"
        made = await self._object("POST", path, query={"agent_id": agent_id})
        changes = {**conversation.settings, **({"summary": conversation.summary} if conversation.summary else {})}
        if changes:
            await self._client.request("PATCH", f"/v1/conversations/{_quoted(made['id'])}", body=changes)
        return str(made["id"])

    async def close(self) -> None:
        await self._reader.close()

    async def _exact(self, page: Sequence[Sequence[Listed]], llm_config: object) -> list[StoredMessage]:
        ids = [str(entries[0]["id"]) for entries in page]
        rows = await self._reader.rows(ids, llm_config)
        return [_message(message_id, entries, row) for message_id, entries, row in zip(ids, page, rows, strict=True)]

    async def _conversation(self, listed: Json) -> StoredConversation:
        # Letta's list of conversations omits their contexts.
        one = await self._object("GET", f"/v1/conversations/{_quoted(listed['id'])}")
        return StoredConversation(
            conversation_id=str(one["id"]),
            context=_texts(one.get("in_context_message_ids")),
            summary=one.get("summary"),
            settings={name: one[name] for name in _CONVERSATION_SETTINGS if one.get(name) is not None},
        )

    async def _block(self, block: Json) -> StoredBlock:
        block_id = str(block["id"])
        shared = await self._shared(f"/v1/blocks/{_quoted(block_id)}/agents")
        return StoredBlock(block_id, _without(block, _BLOCK_OWN), shared)

    async def _shared(self, path: str) -> bool:
        return len(await self._list(path, limit=2)) > 1

    async def _attached(self, path: str) -> bool:
        try:
            await self._client.request("PATCH", path)
        except LettaRejected as error:
            if error.cause == "not_found":
                return False
            raise
        return True

    async def _object(
        self, method: str, path: str, *, body: object = None, query: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        response = await self._client.request(method, path, body=body, query=query, reads=method == "GET")
        return _parsed(response.content, dict)

    async def _list(self, path: str, **query: object) -> list[dict[str, Any]]:
        given = {name: value for name, value in query.items() if value is not None}
        response = await self._client.request("GET", path, query=given, reads=True)
        return [item for item in _parsed(response.content, list) if isinstance(item, dict)]


def _by_message(listed: Sequence[Listed]) -> Iterator[list[Listed]]:
    """Group entries by message; Letta lists the entries of a message consecutively."""
    entries: list[Listed] = []
    for entry in listed:
        if entries and entries[0].get("id") != entry.get("id"):
            yield entries
            entries = []
        entries.append(entry)
    if entries:
        yield entries


def _until(page: Iterator[list[Listed]], awaited: set[str]) -> Iterator[list[Listed]]:
    """Messages up to the last awaited one. Removes each from ``awaited``."""
    for entries in page:
        if not awaited:
            return
        awaited.discard(str(entries[0]["id"]))
        yield entries


def _message(message_id: str, entries: Sequence[Listed], row: dict[str, Any] | None) -> StoredMessage:
    exact = row is not None
    held = row if row is not None else listed_row(entries)
    if otid := own_otid(entries):
        held["otid"] = otid
    run_id = entries[0].get("run_id")
    return StoredMessage(message_id, held, str(run_id) if run_id else None, exact)


def _new_passage(passage: StoredPassage) -> dict[str, Any]:
    return {
        "text": passage.text,
        "tags": list(passage.tags),
        "metadata": dict(passage.metadata),
        "created_at": passage.created_at or None,
    }


def _variables(state: Json) -> dict[str, str]:
    listed = state.get("secrets") or state.get("tool_exec_environment_variables") or []
    return {str(one["key"]): str(one.get("value") or "") for one in listed if isinstance(one, Mapping)}


def _left_out(state: Json) -> tuple[str, ...]:
    """Parts of the agent that cannot be restored from an agent file."""
    things = {
        "identities": state.get("identity_ids"),
        "attached folders of files": state.get("sources"),
        "its place in a group of agents": state.get("multi_agent_group"),
    }
    return tuple(name for name, value in things.items() if value)


def _without(content: Json, names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


def _texts(listed: object) -> tuple[str, ...]:
    return tuple(str(one) for one in listed) if isinstance(listed, list) else ()


def _agent(agent_id: str, path: str = "") -> str:
    return f"/v1/agents/{_quoted(agent_id)}{path and '/'}{path}"


def _quoted(value: object) -> str:
    return quote(str(value), safe="")


def _parsed(content: bytes, shape: type[_Shape]) -> _Shape:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, shape):
        raise LettaRejected("The server at Letta's address is not Letta.", cause="not_letta")
    return parsed
