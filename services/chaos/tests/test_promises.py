"""What is broken on purpose here, behind the bridges' backs, the judge must see."""

from __future__ import annotations

import json

import httpx
import psycopg
import pytest

from bridge_chaos import promises
from bridge_chaos.load import QUEUE
from bridge_chaos.promises import judge

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("chaos")]


def say_again(rig, user, text):
    (agent,) = httpx.get(f"{rig.letta_url}/v1/agents", params={"tags": f"user:{user}"}).json()
    turn = {"messages": [{"role": "user", "content": text, "otid": "x"}]}
    httpx.post(f"{rig.letta_url}/v1/agents/{agent['id']}/messages", json=turn).raise_for_status()


def forget(rig, user):
    (agent,) = httpx.get(f"{rig.letta_url}/v1/agents", params={"tags": f"user:{user}"}).json()
    httpx.delete(f"{rig.letta_url}/v1/agents/{agent['id']}").raise_for_status()


async def test_a_quiet_conversation_breaks_nothing(rig, conversation):
    verdict = await judge(rig, conversation)
    assert verdict.broken == {}
    assert (verdict.tasks, verdict.sources["letta"]) == (6, 6)


async def test_messages_in_the_agents_are_counted(rig, conversation):
    ada, bo, cy = conversation.users
    say_again(rig, ada, f"第0句 from {ada}.")
    say_again(rig, bo, f"第1句 from {cy}.")
    forget(rig, cy)
    verdict = await judge(rig, conversation)
    assert verdict.repeated_messages == [f"第0句 from {ada}."]
    assert len(verdict.out_of_order) == 1
    assert len(verdict.strangers) == 2  # what was said, and the answer to it
    assert verdict.forgotten == [f"第{number}句 from {cy}." for number in (0, 1)]


async def test_replies_are_counted(rig, conversation, monkeypatch):
    monkeypatch.setattr(promises, "_AT_REST", 0.5)
    ada, bo, _ = conversation.users
    lost, twice = f"{ada}-0", f"{bo}-0"
    with rig.client() as client:
        said = {"task_id": twice, "user_id": bo, "response_text": f"echo: 第0句 from {ada}.", "source": "letta"}
        client.xadd(f"{{{QUEUE}}}:replies", {"reply": json.dumps(said)})
        client.hset(f"{{{QUEUE}}}:lanes", "nobody", "0-0")
        client.hincrby(f"{{{QUEUE}}}:counters", "settled:letta", 1)
        assert conversation._wait(lambda: len(conversation.replies[twice]) > 1, 10)
        del conversation.replies[lost]
        verdict = await judge(rig, conversation)
        client.hdel(f"{{{QUEUE}}}:lanes", "nobody")
    assert verdict.lost == [lost]
    assert verdict.repeated_replies == [twice]
    assert len(verdict.strangers) == 1
    assert len(verdict.accounts) == 2


async def test_a_good_task_among_the_dead_letters_is_counted(rig, conversation):
    task = f"{conversation.users[0]}-0"
    with rig.client() as client:
        client.lpush(f"{{{QUEUE}}}:dead", json.dumps({"task_id": task, "reason": "a defect"}) + "\n{}")
    verdict = await judge(rig, conversation)
    assert verdict.buried == [f"{task}: a defect"]
    assert (verdict.sources["dead"], verdict.broken) == (1, {"buried": 1})


async def test_the_journal_is_counted(rig, conversation):
    await judge(rig, conversation)  # waits until it is written
    task = f"{conversation.users[0]}-0"
    with psycopg.connect(rig.postgres.url(rig.database), autocommit=True) as connection:
        connection.execute("DELETE FROM letta_bridge.agent_messages WHERE metadata->>'task_id' = %s", (task,))
    verdict = await judge(rig, conversation)
    assert verdict.journal == [f"{task} is missing"]
