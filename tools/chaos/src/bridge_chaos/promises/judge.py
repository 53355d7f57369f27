"""Runs all checks once the stack is idle."""

from __future__ import annotations

from collections import Counter

from bridge_chaos.conversation import Conversation
from bridge_chaos.environment import Environment
from bridge_chaos.promises.accounts import AT_REST_SECONDS, judge_accounts
from bridge_chaos.promises.histories import judge_histories, waiting_to_be_told
from bridge_chaos.promises.journal import judge_journal
from bridge_chaos.promises.only_counted import Bounds
from bridge_chaos.promises.replies import dead_letters, judge_replies
from bridge_chaos.promises.streams import judge_streams
from bridge_chaos.promises.verdict import Verdict


def judge(environment: Environment, conversation: Conversation, *, at_rest_seconds: float = AT_REST_SECONDS) -> Verdict:
    """The verdict over a conversation, after the queue had these seconds to become idle."""
    verdict = Verdict(tasks=len(conversation.utterances))
    with environment.client() as client:
        judge_accounts(verdict, client, patience=at_rest_seconds)
        dead = dead_letters(client)
        waiting = waiting_to_be_told(client)
        judge_streams(verdict, client, conversation)
    judge_replies(verdict, conversation, dead, echoes=bool(environment.letta.doubles))
    with environment.letta.reader() as reader:
        judge_histories(verdict, conversation, reader, waiting=waiting, bounds=Bounds.of(environment))
        for agent_id, times in Counter(environment.letta.overlaps()).items():
            user = reader.owner(agent_id)
            verdict.add("overlaps", f"{times} turns of {user or agent_id} began beside another one", user)
    if environment.topology.database:
        judge_journal(verdict, environment, conversation)
    return verdict
