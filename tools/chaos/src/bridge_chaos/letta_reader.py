"""Reads agents' memory over Letta's HTTP interface, independently of the bridge's client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import httpx

_MESSAGES_PER_PAGE: Final = 100
_TIMEOUT_SECONDS: Final = 60.0
_READ_ATTEMPTS: Final = 10
"""Of one question: a fault that breaks calls to Letta off is meant for bridges, and may strike here as well."""

Message = Mapping[str, Any]
"""One message as Letta lists it: ``message_type``, ``content``, ``otid`` and more."""


class LettaReader:
    """One Letta server or its double.

    Args:
        url: its base URL.
        api_key: its password, if it has one.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_SECONDS, follow_redirects=True)

    def _get(self, path: str, query: Mapping[str, Any]) -> httpx.Response:
        for _ in range(_READ_ATTEMPTS - 1):
            with contextlib.suppress(httpx.ReadError, httpx.RemoteProtocolError):
                return self._client.get(path, params=query)
        return self._client.get(path, params=query)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def agents(self, tags: Sequence[str]) -> list[Mapping[str, Any]]:
        """Agents that carry all tags, oldest first, each with ``id`` and ``tags``."""
        query: dict[str, Any] = {
            "tags": list(tags),
            "match_all_tags": True,
            "order": "asc",
            "limit": _MESSAGES_PER_PAGE,
        }
        found: list[Mapping[str, Any]] = []
        while True:
            after = {"after": found[-1]["id"]} if found else {}
            page = self._list("/v1/agents/", {**query, "include": ["agent.tags"], **after})
            found += page
            if len(page) < _MESSAGES_PER_PAGE:
                return found

    def messages(self, agent_id: str) -> list[Message]:
        """All messages of an agent, oldest first."""
        history: list[Message] = []
        for page in self._pages(agent_id):
            history[:0] = page
        return history

    def owner(self, agent_id: str) -> str | None:
        """The user of an agent; None if the agent does not exist."""
        answer = self._get(f"/v1/agents/{agent_id}", {"include": ["agent.tags"]})
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        tags = [str(tag) for tag in answer.raise_for_status().json().get("tags") or ()]
        return next((tag.removeprefix("user:") for tag in tags if tag.startswith("user:")), None)

    def delete(self, agent_id: str) -> None:
        self._client.delete(f"/v1/agents/{agent_id}").raise_for_status()

    def say(self, agent_id: str, text: str, otid: str) -> None:
        """Send a message to an agent directly, without a bridge."""
        message = {"role": "user", "content": text, "otid": otid}
        answer = self._client.post(f"/v1/agents/{agent_id}/messages", json={"messages": [message]})
        answer.raise_for_status()

    def _pages(self, agent_id: str) -> Iterator[list[Message]]:
        before: str | None = None
        while True:
            query = {"limit": _MESSAGES_PER_PAGE, "order": "desc"} | ({"before": before} if before else {})
            page = self._list(f"/v1/agents/{agent_id}/messages", query)
            if not page:
                return
            yield page
            before = str(page[0]["id"])

    def _list(self, path: str, query: Mapping[str, Any]) -> list[Any]:
        answer = self._get(path, query)
        answer.raise_for_status()
        found: list[Any] = answer.json()
        return found
