"""A turn, its memory and every refusal, with imitations of the providers that docs/models.md describes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local_stack.fixtures import BridgeFactory, MemoryFactory, missing_parts
from local_stack.letta import Letta
from local_stack.models import ScriptedModel
from local_stack.postgres import Postgres
from local_stack.programs import program
from local_stack.valkey import Valkey
from scripted_model.providers import PROVIDERS
from shared_utils.llm.model_errors import MEANINGS, Cause

pytestmark = [pytest.mark.acceptance, pytest.mark.letta]

_CAUSES = {"key": Cause.CREDENTIALS, "balance": Cause.CREDITS, "model": Cause.UNKNOWN_MODEL}


@pytest.fixture
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ScriptedModel]:
    with missing_parts():
        model = ScriptedModel(logs=tmp_path, provider=request.param)
        model.start()
        model.wait_ready()
    yield model
    model.stop()


@pytest.fixture
def letta_of(provider: ScriptedModel, postgres_server: Postgres, tmp_path: Path) -> Iterator[Letta]:
    database = f"provider_{tmp_path.name.replace('-', '_')}"[:60]
    with missing_parts():
        locks = Valkey(tmp_path / "locks", durable=False)
        locks.start()
        locks.wait_ready()
        url = f"{postgres_server.url(database)}?sslmode=disable"
        letta = Letta(tmp_path / "letta", database_url=url, locks=(locks.host, locks.port), model=provider.access)
        letta.start()
        letta.wait_ready()
    yield letta
    letta.stop()
    locks.stop()
    postgres_server.drop_database(database)


def _doctor(bridge: Any, *options: str) -> dict[str, Any]:
    words: list[str | Path] = [program("letta-bridge"), "doctor", "--json", *options]
    done = subprocess.run(words, env=bridge.environment, capture_output=True, text=True, check=False, timeout=120)
    return {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}


@pytest.mark.parametrize("provider", [name for name, one in PROVIDERS.items() if one.lists_models], indirect=True)
def test_a_turn_is_remembered_and_each_refusal_is_named(
    provider: ScriptedModel,
    letta_of: Letta,
    observe: Any,
    users: Callable[..., Any],
    redis_url: str,
    bridge_factory: BridgeFactory,
    memory_factory: MemoryFactory,
) -> None:
    bridge = bridge_factory(redis_url, letta_of)
    memory_factory(redis_url)
    person = users(1)[0]

    def talk(task_id: str, content: str) -> Any:
        observe.push(person, task_id, content)
        deadline = time.monotonic() + 90
        while (reply := observe.reply(person, task_id)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return reply

    # A tool call, with the model's thoughts before it, and an answer from what it stored.
    told = talk("t1", "My name is Ada.")
    assert (told["source"], told["memory_updated"]) == ("letta", True), json.dumps(told)
    assert talk("t2", "What is my name?")["response_text"] == "Your name is Ada."
    assert _doctor(bridge)["letta.model"]["level"] == "OK"
    for situation, cause in _CAUSES.items():
        httpx.put(f"{provider.base_url}/control/situation", json={"situation": situation}).raise_for_status()
        reply = talk(f"refused-{situation}", "hello")
        assert (reply["source"], reply["fallback_cause"]) == ("memory-python", cause), situation
        said = json.dumps(_doctor(bridge, "--deep"), ensure_ascii=False)
        assert MEANINGS[cause] in said, situation
    httpx.put(f"{provider.base_url}/control/situation", json={"situation": None}).raise_for_status()
    assert talk("t3", "What is my name?")["response_text"] == "Your name is Ada."


@pytest.mark.parametrize("provider", ["unlisted"], indirect=True)
def test_an_endpoint_without_a_list_of_models_is_named(
    provider: ScriptedModel, letta_of: Letta, redis_url: str, bridge_factory: BridgeFactory
) -> None:
    assert httpx.get(f"{provider.url}/models").status_code == 404
    bridge = bridge_factory(redis_url, letta_of)
    finding = _doctor(bridge)["letta.model"]
    assert finding["level"] == "FAIL"
    assert "has no list of models (GET models)" in json.dumps(finding)
