"""What is broken on purpose here, behind the bridges' backs, the judge must see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from bridge_chaos.conversation import Conversation
from bridge_chaos.environment import QUEUE
from bridge_chaos.load import Utterance
from bridge_chaos.promises import judge
from bridge_chaos.promises.verdict import count
from bridge_chaos.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("chaos")]


@pytest.fixture
def agents(environment: Any, conversation: Conversation) -> Iterator[Any]:
    """`agents(user)`: the ids of the user's agents; with `say` and `forget` behind the bridges' backs."""
    with environment.letta.reader() as reader:

        class Agents:
            def of(self, user: str, persona: str = "default") -> Any:
                (agent,) = reader.agents([f"user:{user}", f"persona:{persona}"])
                return agent["id"]

            def say(self, user: str, text: str) -> None:
                reader.say(self.of(user), text, "x")

            def forget(self, user: str) -> None:
                reader.delete(self.of(user))

        yield Agents()


def said(user: str, number: int, persona: str = "default") -> Any:
    return Utterance(user, number, persona).text


def texts(verdict: Any, promise: str) -> list[Any]:
    return [finding.text for finding in verdict.findings if finding.promise == promise]


def subjects(verdict: Any, promise: str) -> list[Any]:
    return [finding.subject for finding in verdict.findings if finding.promise == promise]


def test_a_quiet_conversation_breaks_nothing(environment: Any, conversation: Conversation) -> None:
    verdict = judge(environment, conversation)
    assert verdict.findings == []
    assert (verdict.tasks, verdict.sources) == (8, {"letta": 7, "memory-python": 1})


def test_repeated_foreign_and_missing_messages_in_agents_are_found(
    environment: Any, conversation: Conversation, agents: Any
) -> None:
    ada, bo, cy, _ = conversation.users
    agents.say(ada, said(ada, 0))
    agents.say(bo, said(cy, 1))
    agents.forget(cy)
    verdict = judge(environment, conversation)
    assert texts(verdict, "repeated_messages") == [f"{said(ada, 0)!r} 2 times"]
    assert len(texts(verdict, "out_of_order")) == 0  # the other message went to the other persona
    assert len(texts(verdict, "strangers")) == 2  # what was said, and the answer to it
    assert texts(verdict, "forgotten") == [f"{said(cy, number)} (answered by letta, no fallback)" for number in (0, 1)]


def test_pending_missed_turn_is_not_reported_as_forgotten(
    environment: Any, conversation: Conversation, agents: Any
) -> None:
    cy = conversation.users[2]
    agents.forget(cy)
    with environment.client() as client:
        client.rpush(f"{{{QUEUE}}}:missed:{cy}", json.dumps({"content": said(cy, 1)}))
        verdict = judge(environment, conversation, at_rest_seconds=0.5)
    assert texts(verdict, "untold") == [f"{said(cy, 1)} (answered by letta, no fallback)"]
    assert texts(verdict, "forgotten") == [f"{said(cy, 0)} (answered by letta, no fallback)"]


def test_a_message_after_a_later_one_is_out_of_order(environment: Any, conversation: Conversation, agents: Any) -> None:
    bo = conversation.users[1]
    agents.say(bo, said(bo, 0))
    assert subjects(judge(environment, conversation), "out_of_order") == [bo]


def test_words_to_another_persona_are_found(environment: Any, conversation: Conversation, agents: Any) -> None:
    ada = conversation.users[0]
    agents.say(ada, said(ada, 1, "coach"))
    assert set(subjects(judge(environment, conversation), "strangers")) == {ada}


def test_a_plain_sentence_in_an_agent_is_found(environment: Any, conversation: Conversation, agents: Any) -> None:
    bo = conversation.users[1]
    agents.say(bo, "我暂时连不上长期记忆，不过你说的我先记下了，稍后再好好回答你。")
    assert set(subjects(judge(environment, conversation), "strangers")) == {bo}


def test_private_words_in_an_agent_are_found(environment: Any, conversation: Conversation, agents: Any) -> None:
    (task,) = conversation.private
    agents.say(task.user, f'(While you were away the user said: "{conversation.utterances[task].text}")')
    verdict = judge(environment, conversation)
    assert set(subjects(verdict, "consent")) == {task}
    assert count(verdict.findings)["forgotten"] == 0


def test_lost_repeated_and_foreign_replies_are_found(environment: Any, conversation: Conversation) -> None:
    ada, bo, *_ = conversation.users
    lost, twice = conversation.tasks_of([ada]).pop(), conversation.tasks_of([bo]).pop()
    observer = conversation.observer
    with environment.client() as client:
        reply = {"task_id": twice.task_id, "user_id": bo, "response_text": said(ada, 0), "source": "letta"}
        client.xadd(f"{{{QUEUE}}}:replies", {"reply": json.dumps(reply)})
        assert observer.wait_for_replies(twice, 2, 10)
        del observer.replies[lost]
        verdict = judge(environment, conversation)
    assert subjects(verdict, "lost") == [lost]
    assert subjects(verdict, "repeated_replies") == [twice]
    assert subjects(verdict, "strangers") == [twice]


def test_accounts_that_do_not_add_up_are_found(environment: Any, conversation: Conversation) -> None:
    with environment.client() as client:
        client.lpush(f"{{{QUEUE}}}:lane:nobody", "left behind")  # of a lane that no bridge is to serve
        client.hincrby(f"{{{QUEUE}}}:counters", "settled:letta", 1)
        verdict = judge(environment, conversation, at_rest_seconds=0.5)
        client.delete(f"{{{QUEUE}}}:lane:nobody")
    assert len(texts(verdict, "accounts")) == 2


def test_an_error_without_a_code_is_unclear(environment: Any, conversation: Conversation) -> None:
    task = conversation.tasks_of(conversation.users[:1]).pop()
    conversation.observer.replies[task] = [{"error": True, "source": "letta_bridge", "message": "no"}]
    assert subjects(judge(environment, conversation), "unclear") == [task]


def test_published_text_that_is_no_reply_is_reported_as_unclear(environment: Any, conversation: Conversation) -> None:
    with environment.client() as client:
        client.publish("letta_responses", b"\x00 damaged")
    assert wait_until(lambda: conversation.observer.unreadable, 10)
    assert len(texts(judge(environment, conversation), "unclear")) == 1


def test_a_good_task_among_the_dead_letters_is_dead_lettered(environment: Any, conversation: Conversation) -> None:
    task = conversation.tasks_of(conversation.users[:1]).pop()
    letter = {"task_id": task.task_id, "user_id": task.user, "reason": "a defect"}
    with environment.client() as client:
        client.lpush(f"{{{QUEUE}}}:dead", json.dumps(letter) + "\n{}")
    verdict = judge(environment, conversation)
    assert texts(verdict, "buried") == [f"{task}: a defect"]
    assert verdict.sources["dead"] == 1


def test_a_turn_missing_in_the_journal_is_found(environment: Any, conversation: Conversation) -> None:
    judge(environment, conversation)  # waits until it is written
    bo = conversation.users[1]
    with psycopg.connect(environment.postgres.url(environment.database), autocommit=True) as connection:
        connection.execute(
            "DELETE FROM letta_bridge.agent_messages m USING letta_bridge.agent_conversations c "
            "WHERE c.id = m.conversation_id AND c.user_id = %s AND m.metadata->>'task_id' = '0'",
            (bo,),
        )
    assert texts(judge(environment, conversation), "journal") == [f"{bo} #0 is missing"]
