"""Converts what Letta's SDK raises and returns to the bridge's types."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from letta_client import APIError, APIStatusError

from letta_bridge.errors import LettaRejected
from letta_bridge.letta.failures import refusal, transport_failure
from letta_bridge.letta.port import AgentRef
from shared_utils.text import read_json

_Shape = TypeVar("_Shape", dict[str, Any], list[Any])


@asynccontextmanager
async def failures(*, reads: bool = False) -> AsyncIterator[None]:
    """Convert the SDK's exceptions to the bridge's errors. ``reads``: the request changes nothing."""
    try:
        yield
    except APIStatusError as error:
        response = error.response
        retry_after = response.headers.get("Retry-After")
        raise refusal(error.status_code, response.content, retry_after=retry_after, reads=reads) from error
    except (APIError, httpx.HTTPError, RuntimeError) as error:
        # RuntimeError is what a closed client or session raises.
        raise transport_failure(error, reads=reads) from error


def json_object(response: httpx.Response) -> dict[str, Any]:
    """The answer as a JSON object. Raises LettaRejected if it is not one."""
    return _parsed(response, dict)


def json_objects(response: httpx.Response) -> list[dict[str, Any]]:
    """The answer as an array of JSON objects. Raises LettaRejected if it is not one."""
    return [item for item in _parsed(response, list) if isinstance(item, dict)]


def json_texts(response: httpx.Response) -> list[str]:
    """The answer as an array of strings. Raises LettaRejected if it is not one."""
    return [item for item in _parsed(response, list) if isinstance(item, str)]


def handles(response: httpx.Response) -> list[str]:
    """The handles of the models that were listed."""
    return [str(model["handle"]) for model in json_objects(response) if model.get("handle")]


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """Where an agent calls its model.

    Provider and address are None where Letta does not say, or where somebody added the provider.
    """

    agent_id: str
    provider: str | None
    address: str | None


def agent_address(agent: Mapping[str, Any]) -> AgentAddress:
    """The address of an agent's model."""
    place = model_place(agent.get("llm_config") or {})
    return AgentAddress(str(agent.get("id")), *(place or (None, None)))


def model_place(model: Mapping[str, Any]) -> tuple[str, str] | None:
    """Provider and address of a model, where it has both and the provider is Letta's own."""
    provider, address = model.get("provider_name"), model.get("model_endpoint")
    own = model.get("provider_category") in {None, "base"}
    return (str(provider), str(address)) if own and provider and address else None


def _parsed(response: httpx.Response, shape: type[_Shape]) -> _Shape:
    try:
        parsed = read_json(response.content)
    except ValueError:
        parsed = None
    if not isinstance(parsed, shape):
        raise LettaRejected("The server at Letta's address is not Letta.", cause="not_letta")
    return parsed


def agent_ref(agent: Mapping[str, Any]) -> AgentRef:
    """An agent as Letta lists it."""
    return AgentRef(
        agent_id=str(agent.get("id", "")),
        name=str(agent.get("name", "")),
        tags=tuple(str(tag) for tag in agent.get("tags") or ()),
        created_at=str(agent.get("created_at", "")),
    )
