from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import structlog

from letta_bridge.agents import model_handles
from letta_bridge.agents.model_handles import suggestions, tell_unknown_handles
from letta_bridge.errors import LettaUnavailable
from letta_bridge.settings import BridgeSettings

KNOWN = ["letta/letta-free", "openai-proxy/gpt-4o-mini", "openai-proxy/GPT-4", "openai/gpt-4", "openai/gpt-4.1"]


@pytest.mark.parametrize(
    ("handle", "known", "first"),
    [
        ("gpt-4", KNOWN, ["openai-proxy/GPT-4", "openai/gpt-4"]),
        ("gpt-4o-mini", KNOWN, ["openai-proxy/gpt-4o-mini"]),
        ("openai/gpt-4o-mini", KNOWN, ["openai-proxy/gpt-4o-mini"]),
        ("gpt4", KNOWN, ["openai/gpt-4"]),
        ("gpt-4", [], ["openai/gpt-4", "openai-proxy/gpt-4"]),
        ("openai/gpt-4", [], []),
        ("qwen2.5:7b", ["openai-proxy/qwen2.5:7b"], ["openai-proxy/qwen2.5:7b"]),
        ("glm", ["openai-proxy/zai-org/glm"], ["openai-proxy/zai-org/glm"]),
    ],
)
def test_handles_of_the_same_name_come_first(handle: str, known: Sequence[str], first: list[str]) -> None:
    assert suggestions(handle, known)[: len(first)] == first


class OneLetta:
    def __init__(self, known: Sequence[str] | None) -> None:
        self._known = known

    async def model_handles(self) -> Sequence[str]:
        if self._known is None:
            raise LettaUnavailable("away")
        return self._known

    embedding_handles = model_handles

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("model", "known", "suggested"),
    [
        ("openai/gpt-4", KNOWN, None),
        ("gpt-4", KNOWN, "openai/gpt-4"),
        ("openai/gpt-5", KNOWN, "openai/gpt-4"),
        ("gpt-4", ["openai-proxy/通义千问"], "openai-proxy/通义千问"),
        ("openai/gpt-4", ["openai-proxy/qwen2.5:7b"], "openai-proxy/qwen2.5:7b"),
        ("gpt-4", None, "openai/gpt-4"),
        ("openai/gpt-5", None, None),
        ("openai/gpt-5", [], None),
    ],
)
async def test_start_names_a_model_that_letta_does_not_offer(
    monkeypatch: pytest.MonkeyPatch, model: str, known: Sequence[str] | None, suggested: str | None
) -> None:
    monkeypatch.setattr(model_handles, "letta_client", lambda *_, **__: OneLetta(known))
    settings = BridgeSettings.model_validate({"agents": {"model": model, "embedding": None}})
    events: list[Any]
    with structlog.testing.capture_logs() as events:
        await tell_unknown_handles(settings)
    if suggested is None:
        assert events == []
    else:
        assert [event["event"] for event in events] == ["model_not_offered"]
        assert (events[0]["setting"], suggested in events[0]["suggested"]) == ("LETTA_MODEL", True)
