"""Settlements that are written without the models of the contract say exactly what the models say."""

from __future__ import annotations

import pytest

from letta_bridge.letta.port import LENGTH_LIMIT, TurnAnswer, Usage
from letta_bridge.request_queue.idempotency import Identity
from letta_bridge.request_queue.port import Turn
from letta_bridge.turn import settlements
from letta_bridge.turn.delivery import Delivered
from shared_utils.contracts.messages import Reply, Task, TaskResponse, dump


@pytest.mark.parametrize("usage", [None, Usage(40, 2, 42, 1)])
@pytest.mark.parametrize("stop_reason", ["end_turn", LENGTH_LIMIT])
def test_answer_of_an_agent_is_written_as_the_models_write_it(usage: Usage | None, stop_reason: str) -> None:
    answer = TurnAnswer("你好 😀", stop_reason, usage, memory_updated=True)
    turn = Turn("1-1", "小明", attempts=2, seq=1, first_ms=1000, payload=b"")
    task = Task(task_id="t1", user_id="小明", content="hi")
    end = settlements.by_letta(turn, task, Identity("1-1000", 1.0, None), Delivered(answer, "agent-1"))
    assert end.reply is not None
    assert end.task_response is not None
    reply, response = Reply.model_validate_json(end.reply), TaskResponse.model_validate_json(end.task_response)
    assert (dump(reply), dump(response)) == (end.reply, end.task_response)
    assert reply.agent_id == "agent-1"
    assert reply.attempts == 2
    assert (reply.usage is not None) == (usage is not None)
    assert reply.truncated == response.truncated == (True if stop_reason == LENGTH_LIMIT else None)
