"""The Letta V1 server as a :class:`~letta_bridge.letta.port.LettaPort`.

Turns, the hot path, have requests of their own (``turn_requests.py``). Everything else goes through the SDK, over
aiohttp as well. Turns share connections; each other request opens its own, because equal answers would make a duplicate
undetectable.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from http import HTTPStatus
from typing import Any, BinaryIO, cast
from urllib.parse import quote

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from letta_client import APIStatusError, AsyncLetta, Omit, not_given, omit
from yarl import URL

from letta_bridge.errors import AgentGone, LettaError, LettaRejected, OutcomeUnknown
from letta_bridge.letta.answer import run_end
from letta_bridge.letta.port import (
    AgentContents,
    AgentPassage,
    AgentRef,
    AgentSpec,
    FoundTurns,
    ModelParameters,
    Note,
    RunEnd,
    SoughtTurn,
    TurnAnswer,
    TurnListener,
    TurnMessage,
)
from letta_bridge.letta.responses import (
    AgentAddress,
    agent_address,
    agent_ref,
    failures,
    handles,
    json_object,
    json_objects,
    json_texts,
    model_place,
)
from letta_bridge.letta.turn_requests import TurnRequests
from letta_bridge.letta.turn_search import Listed, Run, TurnSearch

HISTORY_PAGE = 100
"""Messages per request; a sought turn is mostly among the newest."""
OLDER_PAGE = 500
"""Messages per request after the first page."""

# Health checks still run while every turn waits.
_SPARE_CONNECTIONS = 16
_AGENT_PAGE = 50
_TAG_PAGE = 1000
_TAGS_PER_SEARCH = 100
"""Tags are part of the URL, of which servers and proxies accept 8 KB."""
_RUN_PAGE = 1000
_UNFINISHED_RUN_STATUSES = ("created", "running", "cancelled")
"""States of runs that matter to a turn that is not stored: it may still be, or nobody can tell."""
_NOTES_PER_PAGE = 50


class LettaClient:
    """One Letta server. Build it inside a running event loop; ``close`` it there.

    Args:
        base_url: the server, from configuration only.
        api_key: Letta's own password, None for an open server.
        max_concurrency: turns in flight at most; the connection pool is a little larger, and further ones wait.
        connect_timeout: seconds for a connection to open.
        timeout: seconds for everything but turns, which bring their own.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        max_concurrency: int = 1000,
        connect_timeout: float = 5.0,
        timeout: float = 30.0,
    ) -> None:
        self._base_url = str(URL(base_url)).rstrip("/")
        others = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=max_concurrency + _SPARE_CONNECTIONS, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._sdk = AsyncLetta(
            base_url=self._base_url,
            api_key=api_key or "",
            max_retries=0,  # its default of 2 repeats POSTs, which stores a turn three times
            timeout=httpx.Timeout(timeout, connect=connect_timeout),
            http_client=httpx.AsyncClient(
                transport=AiohttpTransport(client=others), follow_redirects=False, trust_env=False
            ),
        )
        self._sdk.api_key = api_key or None  # given None, the SDK would take LETTA_API_KEY from the environment
        self._turns = TurnRequests(
            self._base_url,
            headers=self._sdk.auth_headers,
            max_concurrency=max_concurrency,
            connect_timeout=connect_timeout,
        )

    async def send(
        self, agent_id: str, messages: Sequence[TurnMessage], *, timeout: float, listener: TurnListener | None = None
    ) -> TurnAnswer:
        """Hand the agent a turn and wait for its answer; see the port."""
        ends = time.monotonic() + timeout
        answer = await self._turns.send(agent_id, messages, timeout=timeout, listener=listener)
        if listener is None or answer.text:
            return answer
        return await self._with_stored_text(agent_id, messages[-1].otid, answer, listener, ends - time.monotonic())

    async def find_turns(
        self, agent_id: str, sought: Sequence[SoughtTurn], *, time_limit: float | None = None
    ) -> FoundTurns:
        """The states of these turns, searched back to their ``since``."""
        began = time.monotonic()
        search = TurnSearch(sought, await self._unfinished_runs(agent_id), time.time())
        async for page in self._pages(agent_id, HISTORY_PAGE, older=OLDER_PAGE):
            if search.read(page) or (time_limit is not None and time.monotonic() - began > time_limit):
                break
        else:
            search.at_the_beginning()
        return search.result()

    async def run_end(self, run_id: str) -> RunEnd:
        """Why a run ended, and its usage."""
        async with failures(reads=True):
            run = await self._sdk.runs.with_raw_response.retrieve(run_id)
            usage = await self._sdk.runs.usage.with_raw_response.retrieve(run_id)
        return run_end(json_object(run.http_response), json_object(usage.http_response))

    async def cancel(self, agent_id: str, run_ids: Sequence[str]) -> None:
        """Mark the runs cancelled; a model call in progress is not interrupted and may still be stored."""
        if not run_ids:  # Letta would take an empty list as "all runs"
            return
        try:
            async with failures():
                await self._sdk.agents.messages.cancel(agent_id, run_ids=list(run_ids))
        except (AgentGone, LettaRejected):
            return

    async def find_agents(self, tags: Sequence[str]) -> list[AgentRef]:
        """Every agent that carries all ``tags``, oldest first."""
        return await self._listed(tags, match_all=True)

    async def find_tagged_agents(self, beginning: str) -> list[AgentRef]:
        """Every agent with a tag of this prefix; the tags in use are listed first."""
        tags: list[str] = []
        while True:
            async with failures(reads=True):
                response = await self._sdk.tags.with_raw_response.list(
                    name=beginning, order="asc", limit=_TAG_PAGE, after=tags[-1] if tags else omit
                )
            page = json_texts(response.http_response)
            tags += page
            if len(page) < _TAG_PAGE:
                break
        wanted = [tag for tag in tags if tag.startswith(beginning)]  # Letta matches it anywhere in the tag
        found: dict[str, AgentRef] = {}
        for start in range(0, len(wanted), _TAGS_PER_SEARCH):
            agents = await self._listed(wanted[start : start + _TAGS_PER_SEARCH], match_all=False)
            found |= {agent.agent_id: agent for agent in agents}
        return list(found.values())

    async def get_agent(self, agent_id: str) -> AgentRef:
        """One agent. Raises AgentGone where it does not exist."""
        async with failures(reads=True):
            response = await self._sdk.agents.with_raw_response.retrieve(agent_id, include=["agent.tags"])
        return agent_ref(json_object(response.http_response))

    async def create_agent(self, spec: AgentSpec) -> AgentRef:
        """Make an agent with exactly the tools of ``spec``: Letta adds none of its own where base tools are off."""
        async with failures():
            response = await self._sdk.agents.with_raw_response.create(
                name=spec.name,
                tags=list(spec.tags),
                model=spec.model,
                embedding=spec.embedding if spec.embedding is not None else omit,
                agent_type=spec.agent_type,  # type: ignore[arg-type]  # a Literal there, configuration here
                memory_blocks=[
                    {"label": b.label, "value": b.value, "description": b.description or None, "limit": b.limit}
                    for b in spec.blocks
                ],
                tools=list(spec.tools),
                include_base_tools=False,
                system=spec.system if spec.system is not None else omit,
                context_window_limit=_given(spec.parameters.context_window),
                max_tokens=_given(spec.parameters.max_tokens),
                message_buffer_autoclear=False,
                enable_sleeptime=False,
            )
        return agent_ref(json_object(response.http_response))

    async def set_parameters(self, agent_id: str, parameters: ModelParameters) -> bool:
        """Change the agent's model configuration as a whole: Letta's shorter forms reset what they do not name."""
        async with failures(reads=True):
            response = await self._sdk.agents.with_raw_response.retrieve(agent_id, include=[])
        config = json_object(response.http_response).get("llm_config")
        if not isinstance(config, dict):
            raise LettaRejected("Letta describes the agent without its model.", cause="not_letta")
        wanted = {name: value for name, value in asdict(parameters).items() if value is not None}
        if all(config.get(name) == value for name, value in wanted.items()):
            return False
        async with failures():
            changed: Any = {**config, **wanted}
            await self._sdk.agents.with_raw_response.update(agent_id, llm_config=changed)
        return True

    async def contents(self, agent_id: str) -> AgentContents:
        """Summarize an agent's content. Runs are read last, so that a turn that starts meanwhile is noticed."""
        passages = await self.passages(agent_id, limit=1)
        async with failures(reads=True):
            response = await self._sdk.agents.blocks.with_raw_response.list(agent_id)
        blocks = {str(b.get("label")): str(b.get("value") or "") for b in json_objects(response.http_response)}
        kinds = [str(message.get("message_type")) for message in await self.history(agent_id)]
        return AgentContents(
            complete=bool(kinds),
            messages=sum(kind != "system_message" for kind in kinds),
            passages=len(passages),
            blocks=blocks,
            running=any(run.active for run in await self._unfinished_runs(agent_id)),
        )

    async def retag(self, agent_id: str, *, add: Collection[str] = (), remove: Collection[str] = ()) -> None:
        """Change an agent's tags."""
        tags = (set((await self.get_agent(agent_id)).tags) - set(remove)) | set(add)
        async with failures():
            await self._sdk.agents.with_raw_response.update(agent_id, tags=sorted(tags))

    async def history(self, agent_id: str, *, limit: int = 1000) -> list[Mapping[str, object]]:
        """The agent's newest ``limit`` messages, oldest first."""
        history: list[Listed] = []
        async for page in self._pages(agent_id, max(1, min(limit, HISTORY_PAGE))):
            history[:0] = page
            if len(history) >= limit:
                break
        return history[max(0, len(history) - limit) :]

    async def passages(
        self, agent_id: str, *, after: str | None = None, newest_first: bool = False, limit: int = 20
    ) -> list[AgentPassage]:
        """A page of the agent's archival memory."""
        async with failures(reads=True):
            response = await self._sdk.agents.passages.with_raw_response.list(
                agent_id,
                limit=limit,
                ascending=not newest_first,
                # In Letta's API these words refer to the time, whatever the order.
                before=after if newest_first and after is not None else omit,
                after=after if not newest_first and after is not None else omit,
            )
        return [
            AgentPassage(str(passage.get("id")), str(passage.get("text", "")), str(passage.get("created_at") or ""))
            for passage in json_objects(response.http_response)
        ]

    async def import_agent_file(
        self, content: bytes | BinaryIO, *, variables: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> str:
        """Create an agent from an agent file (JSON) and return its new id.

        Args:
            content: an open file, which is streamed, or its text.
            variables: values for the variables that the file names.
            timeout: seconds; the client's default where not given.

        Raises:
            LettaRejected: the content is no agent file.
        """
        async with failures():
            response = await self._sdk.agents.with_raw_response.import_file(
                file=("agent.af", content, "application/json"),
                append_copy_suffix=False,
                override_existing_tools=False,  # an import must not change tools that other agents use
                secrets=json.dumps(dict(variables)) if variables else omit,
                timeout=timeout if timeout is not None else not_given,
            )
        agent_ids = json_object(response.http_response).get("agent_ids") or []
        if not agent_ids:
            raise LettaRejected("Letta created no agent from the agent file: its answer names none.")
        return str(agent_ids[0])

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, object] | None = None,
        timeout: float | None = None,
        reads: bool = False,
    ) -> httpx.Response:
        """Call an endpoint of Letta's API that has no method of its own. Errors are those of the port.

        Args:
            method: HTTP method.
            path: below the server's address, with variable parts percent-encoded.
            body: sent as JSON.
            query: query parameters.
            timeout: seconds; the client's default where not given.
            reads: the call changes nothing, so every failure of the server is LettaUnavailable.
        """
        options: dict[str, Any] = {"params": dict(query or {})}
        if timeout is not None:
            options["timeout"] = timeout
        call = getattr(self._sdk, method.lower())
        given = {"body": body} if body is not None else {}
        async with failures(reads=reads):
            return cast("httpx.Response", await call(path, cast_to=httpx.Response, options=options, **given))

    async def delete_agent(self, agent_id: str) -> bool:
        """Delete the agent after the memory blocks and archives that only it uses, which Letta would keep.

        The agent is deleted last, so that an interrupted deletion can be repeated.
        """
        try:
            await self._delete_memory(agent_id)
            async with failures():
                await self._sdk.agents.delete(agent_id)
        except AgentGone:
            return False
        return True

    async def notes(self, label: str) -> list[Note]:
        """The memory blocks under a label, oldest first."""
        async with failures(reads=True):
            response = await self._sdk.blocks.with_raw_response.list(label=label, order="asc", limit=_NOTES_PER_PAGE)
        return [Note(str(b.get("id")), str(b.get("value") or "")) for b in json_objects(response.http_response)]

    async def write_note(self, label: str, value: str, *, note_id: str | None = None) -> None:
        """Create a memory block, or replace its value."""
        async with failures():
            if note_id is None:
                await self._sdk.blocks.with_raw_response.create(label=label, value=value)
            else:
                await self._sdk.blocks.with_raw_response.update(note_id, value=value)

    async def delete_note(self, note_id: str) -> None:
        """Delete a memory block."""
        try:
            async with failures():
                await self._sdk.delete(f"/v1/blocks/{quote(note_id, safe='')}", cast_to=httpx.Response)
        except LettaRejected as error:
            if error.cause != "not_found":
                raise

    async def health(self) -> str:
        """The server's version."""
        async with failures(reads=True):
            response = await self._sdk.with_raw_response.health()
        return str(json_object(response.http_response).get("version", ""))

    async def model_handles(self) -> list[str]:
        """The handles an agent's model may have. Unlike health this needs the key and Letta's database."""
        async with failures(reads=True):
            response = await self._sdk.models.with_raw_response.list()
        return handles(response.http_response)

    async def embedding_handles(self) -> list[str]:
        """The handles an agent's embedding model may have."""
        async with failures(reads=True):
            response = await self._sdk.models.embeddings.with_raw_response.list()
        return handles(response.http_response)

    async def provider_addresses(self) -> dict[str, str]:
        """Name of each of Letta's own providers → address of its models; none for those without models."""
        async with failures(reads=True):
            response = await self._sdk.models.with_raw_response.list(provider_category=["base"])
        found = [model_place(model) for model in json_objects(response.http_response)]
        return dict(place for place in found if place is not None)

    async def agent_addresses(self, tag: str, *, newest_first: bool, after: str | None = None) -> list[AgentAddress]:
        """A page of agents with this tag, each with the address of its model; fifty, or the rest."""
        async with failures(reads=True):
            response = await self._sdk.agents.with_raw_response.list(
                tags=[tag],
                order="desc" if newest_first else "asc",
                limit=_AGENT_PAGE,
                after=after if after is not None else omit,
            )
        return [agent_address(agent) for agent in json_objects(response.http_response)]

    async def has_locks(self) -> bool:
        """Whether Letta has a Redis for its locks.

        Requests the stream of a run that does not exist; without Redis, Letta refuses that before it searches for the
        run.
        """
        run = {"run_id": f"run-{uuid.uuid4()}"}
        async with failures(reads=True):
            try:
                await self._sdk.post("/v1/conversations/default/stream", body=run, cast_to=httpx.Response)
            except APIStatusError as error:
                if error.status_code == HTTPStatus.SERVICE_UNAVAILABLE and b"requires Redis" in error.response.content:
                    return False
                if error.status_code != HTTPStatus.NOT_FOUND:
                    raise
        return True

    async def close(self) -> None:
        """Give back connections."""
        await self._sdk.close()
        await self._turns.close()

    async def _with_stored_text(
        self, agent_id: str, otid: str, answer: TurnAnswer, listener: TurnListener, timeout: float
    ) -> TurnAnswer:
        """The answer with the text that Letta has stored: streams of older agent types may lack what they said."""
        try:
            async with asyncio.timeout(timeout):
                [found] = (await self.find_turns(agent_id, [SoughtTurn(otid, 0.0)])).turns
        except (LettaError, TimeoutError) as error:
            raise OutcomeUnknown(
                "Letta streamed no text, and whether it has stored one could not be read.", cause="server_error"
            ) from error
        if found.answer is None or not found.answer.text:
            return answer
        listener.text(found.run_id or "", found.answer.text)
        return replace(answer, text=found.answer.text)

    async def _listed(self, tags: Sequence[str], *, match_all: bool) -> list[AgentRef]:
        """The agents that carry all of these tags, or one of them, oldest first."""
        found: list[AgentRef] = []
        while True:
            async with failures(reads=True):
                response = await self._sdk.agents.with_raw_response.list(
                    tags=list(tags),
                    match_all_tags=match_all,
                    order="asc",
                    limit=_AGENT_PAGE,
                    after=found[-1].agent_id if found else omit,
                    include=["agent.tags"],
                )
            page = json_objects(response.http_response)
            found += [agent_ref(agent) for agent in page]
            if len(page) < _AGENT_PAGE:
                return found

    async def _unfinished_runs(self, agent_id: str) -> list[Run]:
        """The runs of an agent that are active or cancelled, newest first."""
        found: list[Run] = []
        while True:
            async with failures(reads=True):
                response = await self._sdk.runs.with_raw_response.list(
                    agent_id=agent_id,
                    statuses=_UNFINISHED_RUN_STATUSES,
                    limit=_RUN_PAGE,
                    order="desc",
                    before=found[-1].run_id if found else omit,  # older ones; `after` lists newer ones in either order
                )
            page = json_objects(response.http_response)
            found += [Run.listed(run) for run in page]
            if len(page) < _RUN_PAGE:
                return found

    async def _pages(self, agent_id: str, first: int, *, older: int | None = None) -> AsyncIterator[Sequence[Listed]]:
        """Pages of the history, newest page first, each oldest first; ends at the start of the history.

        The first page has ``first`` messages, the others ``older``. A shorter page is no sign of the start: Letta lists
        nothing for an empty answer.
        """
        before: str | None = None
        size = first
        while True:
            async with failures(reads=True):
                response = await self._sdk.agents.messages.with_raw_response.list(
                    agent_id, limit=size, order="desc", before=before if before is not None else omit
                )
            page = json_objects(response.http_response)
            if not page:
                return
            oldest = str(page[0].get("id"))
            if oldest == before:
                raise LettaRejected("The server at Letta's address lists the same messages again.", cause="not_letta")
            yield page
            before = oldest
            size = older or first

    async def _delete_memory(self, agent_id: str) -> None:
        async with failures(reads=True):
            blocks = await self._sdk.agents.blocks.with_raw_response.list(agent_id)
            archives = await self._sdk.archives.with_raw_response.list(agent_id=agent_id)
        for block in json_objects(blocks.http_response):
            await self._delete_unshared(f"/v1/blocks/{quote(str(block.get('id')), safe='')}")
        for archive in json_objects(archives.http_response):
            await self._delete_unshared(f"/v1/archives/{quote(str(archive.get('id')), safe='')}")

    async def _delete_unshared(self, path: str) -> None:
        """Delete a block or an archive that at most one agent uses; it may be gone already."""
        try:
            async with failures():
                users = await self._sdk.get(f"{path}/agents?limit=2", cast_to=httpx.Response)
                if len(json_objects(users)) <= 1:
                    await self._sdk.delete(path, cast_to=httpx.Response)
        except LettaRejected as error:
            if error.cause != "not_found":
                raise


def _given(value: int | None) -> int | Omit:
    return omit if value is None else value
