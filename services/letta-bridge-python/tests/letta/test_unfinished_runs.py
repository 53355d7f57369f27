"""What the real Letta leaves behind where its database refuses to write that a run is over."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from letta_bridge.errors import OutcomeUnknown, TurnInterrupted
from letta_bridge.letta import AgentSpec, Block, SoughtTurn, TurnMessage, TurnState, turn_otid
from letta_bridge.letta.letta_client import LettaClient
from letta_bridge.turn.reconciliation import Absences, PresentTurn, Reconciliation
from local_stack.letta import Letta
from local_stack.postgres import Postgres

pytestmark = pytest.mark.letta

KEY = "1-1"
_REFUSE = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'full'; END $$"
_REFUSED = "CREATE TRIGGER refused BEFORE {} FOR EACH ROW EXECUTE FUNCTION refuse()"


@pytest.fixture
def refusing(postgres_server: Postgres) -> Callable[..., Any]:
    """Lets Letta's database refuse kinds of statements, such as ``UPDATE ON runs``."""

    @contextmanager
    def refuse(*statements: Any) -> Iterator[None]:
        with psycopg.connect(postgres_server.url("letta"), autocommit=True) as connection:
            connection.execute(_REFUSE)
            try:
                for statement in statements:
                    connection.execute(_REFUSED.format(statement))
                yield
            finally:
                connection.execute("DROP FUNCTION refuse CASCADE")

    return refuse


@pytest.fixture
async def agent(letta: Letta, client_of: Callable[..., LettaClient]) -> AsyncIterator[Any]:
    client = client_of(letta.url, api_key=letta.api_key)
    blocks = (Block("human", "", "about the user", 2000), Block("persona", "kind"))
    tags = ("bridge", f"test:{uuid.uuid4()}")
    spec = AgentSpec("test", tags, letta.model, None, "letta_v1_agent", blocks, ("memory_insert",))
    made = await client.create_agent(spec)
    yield client, made.agent_id
    await client.delete_agent(made.agent_id)


async def failed(client: Any, agent_id: str) -> None:
    """A turn that Letta answers with an error of its own, while its run stays active."""
    otid = turn_otid(agent_id, KEY)
    with pytest.raises(OutcomeUnknown) as failure:
        await client.send(agent_id, [TurnMessage("user", "hello", otid)], timeout=60)
    assert failure.value.cause == "server_error"
    found = (await client.find_turns(agent_id, [SoughtTurn(otid, time.time() - 600)])).turns[0]
    assert found.state is TurnState.RUNNING


async def reconciled(client: Any, agent_id: str) -> Any:
    present = PresentTurn(KEY, "t1", time.time(), "hello", ended=True, is_deserted=lambda: False)
    async with asyncio.timeout(60):
        return await Reconciliation(
            client,
            agent_id,
            (),
            present,
            patience=600.0,
            absences=Absences(),
            is_dead=lambda _began: False,
            looked=lambda: None,
        ).run()


async def test_an_answer_is_found_although_letta_could_not_write_the_end_of_its_run(
    agent: Any, refusing: Callable[..., Any]
) -> None:
    client, agent_id = agent
    with refusing("UPDATE ON runs"):
        await failed(client, agent_id)
    result = await reconciled(client, agent_id)
    assert result.present is not None
    assert result.present.answer.text


async def test_a_turn_that_letta_could_store_neither_nor_end_stays_in_doubt(
    agent: Any, refusing: Callable[..., Any]
) -> None:
    client, agent_id = agent
    with refusing("UPDATE ON runs", "INSERT ON messages"):
        await failed(client, agent_id)
    with pytest.raises(TurnInterrupted):
        await reconciled(client, agent_id)
