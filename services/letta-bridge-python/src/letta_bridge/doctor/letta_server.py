"""Checks one Letta server: reachable, known version, key, models, locks and, with ``deep``, a turn."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from letta_bridge.agents.agent_duplicates import find_duplicates
from letta_bridge.agents.model_handles import SHOWN_HANDLES, is_bare, suggestions
from letta_bridge.agents.model_parameters import model_parameters
from letta_bridge.doctor import model_addresses
from letta_bridge.doctor.findings import Finding, fail, ok, warn
from letta_bridge.errors import LettaError, LettaRejected, LettaUnavailable
from letta_bridge.letta.port import AgentSpec, Block, TurnMessage
from letta_bridge.settings import BridgeSettings

if TYPE_CHECKING:
    from letta_bridge.letta.letta_client import LettaClient

_KNOWN_VERSION: Final = "0.16."
_LETTA_TIMEOUT_SECONDS: Final = 15.0
"""Seconds for each question but the deep one, which has letta.timeout_seconds."""
_KEY_ADVICE: Final = "set LETTA_API_KEY to the server's LETTA_SERVER_PASSWORD"
_IN_DOCKER: Final = " (secrets/openai_api_key.txt with docker compose)"


async def examine(settings: BridgeSettings, url: str, *, deep: bool) -> AsyncIterator[Finding]:
    """Every finding about the server at ``url``; a server that does not answer gets one."""
    if not settings.letta.enabled:
        yield ok("letta", "not used: letta.enabled is false")
        return
    subject = "letta" if len(settings.letta.api_urls) == 1 else f"letta {_where(url)}"
    key = settings.letta.api_key.get_secret_value() if settings.letta.api_key else None
    client = _connect(url, key)
    try:
        try:
            version = await client.health()
        except LettaError as error:
            yield fail(subject, f"{_where(url)}: {error}", "start Letta, or correct LETTA_API_URL")
            return
        yield _version(subject, url, version)
        try:
            handles = await client.model_handles()
        except LettaError as error:
            yield _refused(subject, error)
            return
        yield await _credentials(subject, url, key)
        yield _handle(f"{subject}.model", settings.agents.model, handles, "LETTA_MODEL")
        async for finding in _rest(client, settings, subject, deep=deep):
            yield finding
    finally:
        await client.close()


async def _rest(client: LettaClient, settings: BridgeSettings, subject: str, *, deep: bool) -> AsyncIterator[Finding]:
    checks: dict[str, Callable[[LettaClient, BridgeSettings, str], Awaitable[Finding]]]
    checks = {"embedding": _embedding, "addresses": partial(_addresses, deep=deep), "locks": _locks}
    if deep:
        checks |= {"agents": _agents, "turn": _turn}
    for name, check in checks.items():
        try:
            yield await check(client, settings, f"{subject}.{name}")
        except LettaError as error:
            yield fail(f"{subject}.{name}", str(error), "see Letta's log")


def _connect(url: str, key: str | None) -> LettaClient:
    # Imported here: it brings Letta's SDK along, which --help need not wait for.
    from letta_bridge.letta.letta_client import LettaClient  # noqa: PLC0415

    return LettaClient(url, api_key=key, max_concurrency=4, timeout=_LETTA_TIMEOUT_SECONDS)


def _where(url: str) -> str:
    """The address without who logs in."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _version(subject: str, url: str, version: str) -> Finding:
    if version.startswith(_KNOWN_VERSION):
        return ok(subject, f"version {version} answers at {_where(url)}")
    return warn(
        subject,
        f"version {version or 'unknown'} answers at {_where(url)}; the bridge supports {_KNOWN_VERSION}x",
        "run Letta 0.16.8, or test this version with --deep first",
    )


def _refused(subject: str, error: LettaError) -> Finding:
    if isinstance(error, LettaRejected) and error.cause in {"letta_credentials", "forbidden"}:
        return fail(f"{subject}.key", str(error), _KEY_ADVICE)
    return fail(f"{subject}.models", str(error), "see Letta's log; its database may be unavailable")


async def _credentials(subject: str, url: str, key: str | None) -> Finding:
    """The key works; a request without it shows whether Letta requires one."""
    subject = f"{subject}.key"
    stranger = _connect(url, None)
    try:
        await stranger.model_handles()
    except LettaUnavailable as error:
        return warn(subject, f"unknown: {error}", "run doctor again")
    except LettaError:
        return ok(subject, "accepted, and needed")
    finally:
        await stranger.close()
    has = "Letta does not ask for the key" if key else "Letta asks for no key"
    return warn(
        subject,
        f"{has}: anyone who can reach Letta can read every memory",
        "start it with --secure and LETTA_SERVER_PASSWORD",
    )


async def _embedding(client: LettaClient, settings: BridgeSettings, subject: str) -> Finding:
    handle = settings.agents.embedding
    if handle is None:
        return ok(subject, "none configured: agents have no archival memory")
    return _handle(subject, handle, await client.embedding_handles(), "LETTA_EMBEDDING")


def _handle(subject: str, handle: str, known: Sequence[str], variable: str) -> Finding:
    if handle in known:
        return ok(subject, f"{handle} exists")
    if not known:
        return fail(
            subject,
            f"Letta offers no model at all, so not {handle}{_meant(handle)}",
            f"give Letta OPENAI_API_KEY{_IN_DOCKER} or another provider's key, and make sure that it can reach the "
            "provider",
        )
    near = suggestions(handle, known)
    provider = handle.partition("/")[0]
    if is_bare(handle):
        return fail(
            subject,
            f"{handle} is a model's name and no handle of Letta's, which reads PROVIDER/MODEL",
            f"set {variable}, e.g. to {', '.join(near or list(known)[:SHOWN_HANDLES])}",
        )
    if not near and not any(other.startswith(f"{provider}/") for other in known):
        # Letta asks each provider for its models when it starts, and leaves out one that refuses.
        return fail(
            subject,
            f"Letta lists no model of the provider {provider}, so not {handle}: the provider refuses Letta's key, has "
            "no list of models (GET models), or cannot be reached",
            f"give Letta a valid OPENAI_API_KEY{_IN_DOCKER} and OPENAI_BASE_URL and restart it, or set {variable} to a "
            f"handle that it offers: {', '.join(list(known)[:SHOWN_HANDLES])}",
        )
    examples = ", ".join(near or list(known)[:SHOWN_HANDLES])
    return fail(subject, f"Letta does not know the handle {handle}", f"set {variable}, e.g. to {examples}")


def _meant(handle: str) -> str:
    """What to write for a model's name without its provider."""
    return f" (a handle reads PROVIDER/MODEL: {' or '.join(suggestions(handle, ()))})" if is_bare(handle) else ""


async def _locks(client: LettaClient, _settings: BridgeSettings, subject: str) -> Finding:
    if await client.has_locks():
        return ok(subject, "Letta uses Redis")
    return warn(
        subject,
        "Letta runs without Redis, so two turns of one agent from outside the bridge may overlap",
        "set LETTA_REDIS_HOST and LETTA_REDIS_PORT for Letta and restart it; it connects to Redis only at its start",
    )


async def _addresses(client: LettaClient, settings: BridgeSettings, subject: str, *, deep: bool) -> Finding:
    return await model_addresses.examine(client, settings.tenant.name, subject, deep=deep)


async def _agents(client: LettaClient, settings: BridgeSettings, subject: str) -> Finding:
    """Part of the deep examination only, because it reads every agent."""

    async def no_session(_user_id: str, _persona: str) -> Sequence[str]:
        return ()

    found = await find_duplicates(client, settings.agents, settings.tenant.name, no_session)
    conflicting = sum(bool(one.selection.conflicting) for one in found)
    if not found:
        return ok(subject, "no user has several agents")
    return warn(
        subject,
        f"{len(found)} users have several agents; for {conflicting} of them more than one has content",
        "see letta-bridge sessions duplicates, and docs/troubleshooting.md",
    )


async def _turn(client: LettaClient, settings: BridgeSettings, subject: str) -> Finding:
    """Create a scratch agent, send it one turn, find it again, and delete it in any case."""
    name = f"bridge-doctor-{secrets.token_hex(6)}"
    agents = settings.agents
    spec = AgentSpec(
        name=name,
        tags=("bridge-doctor", name),
        model=agents.model,
        embedding=agents.embedding,
        agent_type=agents.agent_type,
        blocks=(Block("persona", "I answer briefly.", limit=agents.block_limit),),
        tools=agents.tools,
        parameters=model_parameters(agents),
    )
    begun = time.monotonic()
    try:
        agent = await client.create_agent(spec)
        if not spec.parameters.empty:
            await client.set_parameters(agent.agent_id, spec.parameters)
        message = TurnMessage("user", "Please answer with one word: hello.", str(uuid.uuid4()))
        answer = await client.send(agent.agent_id, [message], timeout=settings.letta.timeout_seconds)
    except LettaError as error:
        return fail(subject, f"a scratch agent could not answer: {error}", "correct that in Letta or at its provider")
    finally:
        await _forget(client, name)
    seconds = time.monotonic() - begun
    if not answer.text:
        return fail(subject, f"a scratch agent wrote no reply ({answer.stop_reason})", "try another LETTA_MODEL")
    took = f"{seconds:.1f} s, {answer.usage.total_tokens} tokens" if answer.usage else f"{seconds:.1f} s"
    return ok(subject, f"a scratch agent answered within {took}, and was deleted")


async def _forget(client: LettaClient, tag: str) -> None:
    """Found by its tag, because an agent may exist although the answer to its creation was lost."""
    try:
        for agent in await client.find_agents([tag]):
            await client.delete_agent(agent.agent_id)
    except LettaError:
        return
