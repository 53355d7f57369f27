"""The demo: a short conversation of two users that survives several failures."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from letta_bridge_client import BridgeError, Sentence
from local_stack.chat import Answer, Chat
from local_stack.stack import Stack

_NAME_WIDTH = len("memory-python")
_REPLY_TIMEOUT_SECONDS = 120.0  # seconds for one reply: a takeover and every retry fit in
_PACE_MS = 300.0  # between two tokens of an answer that is interrupted
_RECALL_POLL_SECONDS = 1.0  # seconds between two looks whether everything that was said is a long-term memory

SHORT_TERM = 4
"""Messages memory-python keeps of a user in the demonstration: two turns are as good as weeks."""


@dataclass(frozen=True)
class User:
    """A user of the conversation, and the language."""

    name: str
    lang: str


ADA = User("Ada", "en")
MING = User("小明", "zh")


class Demo:
    """The conversation; `failures` tells afterwards which expectations did not hold.

    Args:
        stack: a running one; its bridge and its Letta get killed on the way.
        say: prints one line.
    """

    def __init__(self, stack: Stack, say: Callable[[str], None]) -> None:
        self._stack = stack
        self._say = say
        self._held = 0
        self._turns = 0
        self.failures: list[str] = []

    def run(self) -> bool:
        """Hold the conversation; returns whether every expectation held."""
        self._say(f"\nTwo users talk to the bridge over {self._stack.redis_url}:")
        self._say("each line they say is LPUSHed on letta_requests, task_response:<task id> announces its reply.")
        with Chat(self._stack.redis_url) as chat:
            self._introductions(chat)
            self._interrupted(chat)
            self._bridge_dies(chat)
            self._letta_dies(chat)
            self._long_ago(chat)
            self._letta_is_back(chat)
        total = self._held + len(self.failures)
        self._say("")
        if self.failures:
            self._say(f"{len(self.failures)} of {total} expectations did not hold:")
            for failure in self.failures:
                self._say(f"  ✗ {failure}")
        else:
            self._say(f"All {total} expectations held.")
        return not self.failures

    def _introductions(self, chat: Chat) -> None:
        self._title("Two users introduce themselves")
        self._talk(chat, ADA, "My name is Ada.", "letta")
        self._talk(chat, MING, "我叫小明。", "letta")
        self._talk(chat, ADA, "My cat is called Mochi.", "letta")

    def _interrupted(self, chat: Chat) -> None:
        self._title("Ada interrupts an answer that is being spoken; the agent knows what she heard of it")
        question, spoken = "What do you know about me?", ""
        self._say(f"  {_right(ADA.name)} ▸ {question}")
        try:
            with (
                self._stack.slow_model(_PACE_MS),
                chat.listen(_id(ADA), question, ADA.lang, _REPLY_TIMEOUT_SECONDS) as stream,
            ):
                for event in stream:
                    if isinstance(event, Sentence) and event.speech and not spoken:
                        spoken = event.speech
                        self._say(f"  {_right('letta')} ◂ {spoken} …")
                        stream.heard(event)
                        stream.interrupt()
                        self._note("Ada interrupts: an interrupt on letta_control, with what she heard")
                reply = stream.reply
        except BridgeError as error:
            self._expect(held=False, failure=f"Ada: no streamed reply: {error}")
            return
        self._expect(reply is not None and reply.interrupted, "Ada: the reply was not interrupted")
        told = self._talk(chat, ADA, "What did I hear?", "letta", "Ada")
        self._expect("Mochi" not in told, f"Ada never heard of Mochi, but the agent says: {told!r}")

    def _bridge_dies(self, chat: Chat) -> None:
        bridge = self._stack.bridge
        self._title("The bridge is killed; the next questions wait in the queue")
        self._note(f"kill -9 {bridge.pid}  (letta-bridge)")
        bridge.kill()
        first = self._ask(chat, ADA, "What is my name?")
        second = self._ask(chat, MING, "我叫什么名字?")
        bridge.start()
        bridge.wait_ready()
        self._note(f"letta-bridge runs again (pid {bridge.pid})")
        self._hear(chat, first, ADA, "letta", "Ada")
        self._hear(chat, second, MING, "letta", "小明")

    def _letta_dies(self, chat: Chat) -> None:
        letta = self._stack.letta
        self._title("Letta is killed; memory-python answers meanwhile")
        self._note(f"kill -9 {letta.pid}  (letta)")
        letta.kill()
        self._talk(chat, ADA, "I like oolong tea.", "memory-python")
        self._talk(chat, MING, "我喜欢围棋。", "memory-python")

    def _long_ago(self, chat: Chat) -> None:
        self._title("Letta is still away; memory-python recalls what its short-term memory never held, or has lost")
        self._talk(chat, MING, "我的狗叫豆豆。", "memory-python")
        self._talk(chat, MING, "今天下了一整天雨。", "memory-python")
        self._talk(chat, MING, "晚安。", "memory-python")
        self._talk(chat, ADA, "It rained all day.", "memory-python")
        deadline = time.monotonic() + _REPLY_TIMEOUT_SECONDS
        while (memories := self._stack.memories()) < self._turns and time.monotonic() < deadline:
            time.sleep(_RECALL_POLL_SECONDS)
        self._note(f"{memories} turns have become long-term memories")
        self._expect(memories >= self._turns, f"only {memories} of {self._turns} turns have a vector")
        for user, part in ((ADA, "Mochi"), (MING, "豆豆")):
            records = chat.short_term(_id(user))
            self._note(f"of {user.name}, short-term memory holds the last {len(records)} messages, {part} not in them")
            self._expect(not any(part in record for record in records), f"{part} is in short-term memory still")
        self._talk(chat, ADA, "What is my cat called?", "memory-python", "Mochi")
        self._talk(chat, MING, "我的狗叫什么?", "memory-python", "豆豆")

    def _letta_is_back(self, chat: Chat) -> None:
        letta = self._stack.letta
        self._title("Letta comes back and knows what was said meanwhile")
        self._note("starting Letta again …")
        letta.start()
        letta.wait_ready()
        self._note(f"letta runs again (pid {letta.pid})")
        deadline = time.monotonic() + _REPLY_TIMEOUT_SECONDS
        while self._stack.leaves_letta_alone() and time.monotonic() < deadline:
            time.sleep(_RECALL_POLL_SECONDS)
        self._talk(chat, ADA, "What do I like?", "letta", "oolong tea")
        self._talk(chat, MING, "我喜欢什么?", "letta", "围棋")
        self._talk(chat, ADA, "What is my name?", "letta", "Ada")

    def _talk(self, chat: Chat, user: User, text: str, source: str, part: str = "") -> str:
        return self._hear(chat, self._ask(chat, user, text), user, source, part)

    def _ask(self, chat: Chat, user: User, text: str) -> str:
        self._say(f"  {_right(user.name)} ▸ {text}")
        return chat.say(_id(user), text, user.lang)

    def _hear(self, chat: Chat, task_id: str, user: User, source: str, part: str) -> str:
        answer = chat.answer(task_id, _REPLY_TIMEOUT_SECONDS)
        problem = _problem(answer, source, part)
        mark = "✗" if problem else "✓"
        if answer:
            self._say(f"  {_right(answer.source)} ◂ {answer.text}   {mark} to {user.name}, {answer.seconds:.1f} s")
            self._turns += 1
        self._expect(not problem, f"{user.name}: {problem}")
        return answer.text if answer else ""

    def _expect(self, held: bool, failure: str) -> None:
        if held:
            self._held += 1
            return
        self._say(f"  {_right('✗')}   {failure}")
        self.failures.append(failure)

    def _title(self, text: str) -> None:
        self._say(f"\n── {text}")

    def _note(self, text: str) -> None:
        self._say(f"  {_right('·')}   {text}")


def _id(user: User) -> str:
    return f"demo-{user.name}"


def _right(text: str) -> str:
    """`text` right-aligned in a column; a Chinese character is two columns wide."""
    places = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
    return " " * (_NAME_WIDTH - places) + text


def _problem(answer: Answer | None, source: str, part: str) -> str:
    if answer is None:
        return f"no reply within {_REPLY_TIMEOUT_SECONDS:g} s"
    if not answer.reply.ok:
        return f"an error reply: {answer.text}"
    if answer.source != source:
        return f"answered by {answer.source}, expected {source}"
    if not answer.text:
        return "an empty reply"
    if part not in answer.text:
        return f"expected {part!r} in the reply, got {answer.text!r}"
    return ""
