"""An additional user beside the load, whose messages a fault chooses."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from bridge_chaos.choices import Chooser, choose_until_confirmed
from bridge_chaos.environment import QUEUE
from bridge_chaos.fault import FaultContext
from bridge_chaos.letta_reader import Message
from bridge_chaos.load import Task
from bridge_chaos.observer import PAUSE_SECONDS, REDIS_ERRORS, Reply

ANSWER_SECONDS: Final = 60.0


class Speaker:
    """A user of one run.

    Args:
        context: the run.
        name: tells it from other speakers of the run.
        user: the id of a user of the load, to speak as that one.
    """

    def __init__(self, context: FaultContext, name: str, *, user: str | None = None) -> None:
        self._context = context
        self._observer = context.conversation.observer
        self.user = user or f"{name}-{context.conversation.tag}"

    def say(self, content: str, task_id: str, *, queue: str = QUEUE, **fields: Any) -> Task:
        """Push a task, repeatedly until Redis confirms it."""
        payload = json.dumps({"task_id": task_id, "user_id": self.user, "content": content} | fields)
        while True:
            try:
                with self._context.environment.client() as client:
                    client.lpush(queue, payload)
            except REDIS_ERRORS:
                self._context.let_pass(PAUSE_SECONDS)
            else:
                return self.task(task_id)

    def task(self, task_id: str) -> Task:
        """This user's task of an id."""
        return Task(self.user, task_id)

    def reply(self, task: Task, *, number: int = 1) -> Reply:
        """The task's reply of this number, after waiting; empty after a timeout."""
        self._observer.wait_for_replies(task, number, ANSWER_SECONDS)
        replies = self._observer.heard(task)
        return replies[number - 1] if len(replies) >= number else {}

    def ask(self, content: str, task_id: str, **fields: Any) -> Reply:
        """Push a task and wait for its next reply."""
        before = len(self._observer.heard(self.task(task_id)))
        return self.reply(self.say(content, task_id, **fields), number=before + 1)

    def choose(self, *, permanent_memory: bool) -> None:
        """Switch permanent memory on or off, until a bridge confirms it."""
        chooser = Chooser(self._context.environment.doors)
        until = time.monotonic() + ANSWER_SECONDS
        choose_until_confirmed(chooser, self.user, permanent_memory, lambda: time.monotonic() > until)

    def fell_back(self, task: Task) -> bool:
        """Whether memory-python answered a task, so that the agent receives it with the user's next turn."""
        return any(reply.get("source") == "memory-python" for reply in self._observer.heard(task))

    def told(self) -> list[str]:
        """The user's messages in the user's agents, oldest first, one agent after the other."""
        return [str(m["content"]) for m in self._messages() if m.get("message_type") == "user_message"]

    def is_known(self, words: str) -> bool:
        """Whether an agent of the user contains the words, quoted or not."""
        return any(words in str(message.get("content")) for message in self._messages())

    def _messages(self) -> list[Message]:
        with self._context.environment.letta.reader() as reader:
            agents = reader.agents(["bridge", f"user:{self.user}"])
            return [message for agent in agents for message in reader.messages(str(agent["id"]))]
