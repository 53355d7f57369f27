"""Users' conversations: pushed tasks with their times, users' choices at that time, and received replies."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from random import Random
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bridge_chaos.choices import Choose, choose_until_confirmed
from bridge_chaos.environment import CONTROL, QUEUE
from bridge_chaos.load import SPOKEN, Load, Task, Utterance
from bridge_chaos.observer import PAUSE_SECONDS, REDIS_ERRORS, Observer

_FLOOD_BATCH: Final = 1000
_ONCE: Final = Retry(NoBackoff(), 0)
"""redis-py would repeat a push whose answer was lost, and nobody would count it."""
_CHOICE_SECONDS: Final = 60.0
"""A user who switches memory on again waits so long for answers to what was said in private."""


class Conversation:
    """One load in progress. Threads push and listen; Redis may go away and come back.

    Args:
        client: makes a client of the Redis the bridges use.
        load: how much is said.
        tag: tells these users from all others there ever were.
        choose: sets a user's permanent memory once; None lets nobody choose.
    """

    def __init__(self, client: Callable[[], redis.Redis], load: Load, tag: str, choose: Choose | None = None) -> None:
        self.load = load
        self.tag = tag
        self.users = [f"用户-{tag}-u{number:03}" for number in range(load.users)]
        self.utterances: dict[Task, Utterance] = {}
        self.pushes: Counter[Task] = Counter()
        """How often each was pushed: a push whose answer got lost is repeated."""
        self.pushed_at: dict[Task, float] = {}
        """When it was first pushed, by the monotonic clock."""
        self.accepted_at: dict[Task, float] = {}
        """When Redis had confirmed the push."""
        self.private: set[Task] = set()
        """Said while the user's permanent memory was off, as a bridge had confirmed."""
        self.unsure: set[Task] = set()
        """In the queue while the choice changed: it may count for either."""
        self.reordered: set[Task] = set()
        """Brought back by an operator: nothing is promised of their place."""
        self.opted_out: set[str] = set()
        """Users whose permanent memory is off now."""
        self.opted_in_at: dict[str, float] = {}
        """When a bridge had confirmed that a user's permanent memory is on again, by the monotonic clock."""
        self.streamed: set[Task] = set()
        """Replies to these come in parts, too."""
        self.observer = Observer(client)
        self._client = client
        self._choose = choose
        self._next: Counter[str] = Counter()
        self._places = {user: place for place, user in enumerate(self.users)}
        self._interrupts: list[tuple[float, Task, Mapping[str, object]]] = []
        """When, which task, and what of its reply the user had heard."""
        self._random = Random(tag)  # noqa: S311 - repeatable
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._choosing = set(self.users[-load.choosing :]) if choose and load.choosing else set()

    def begin(self) -> None:
        """Push the load, in separate threads."""
        work: list[tuple[Callable[..., None], tuple[object, ...]]] = [(self._talk, ()), (self._interrupt, ())]
        work += [(self._talk_and_choose, (user,)) for user in self._choosing]
        for target, arguments in work:
            thread = threading.Thread(target=target, args=arguments, daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=10)
        self.observer.close()

    def say_one_more_of(self, users: Iterable[str], *, pause: float = 0.0) -> set[Task]:
        """Push the next message of each of these users to each of their personas, one after the other."""
        said = set()
        for user in users:
            for _ in range(2 if self._places[user] < self.load.with_persona else 1):
                said.add(self._push(user))
            time.sleep(pause)
        return said

    def flood(self, user: str, count: int) -> None:
        """Push this many messages of one further user at once."""
        self._places[user] = len(self.users)
        self.users.append(user)
        with self._client() as client:
            for _ in range(0, count, _FLOOD_BATCH):
                said = [self._next_of(user) for _ in range(_FLOOD_BATCH)]
                client.lpush(QUEUE, *[utterance.payload() for utterance in said])
                self.pushes.update(utterance.task for utterance in said)

    def push_payload(self, payload: str) -> None:
        """Push a payload, repeatedly until Redis confirms it."""
        while not self._over.is_set():
            try:
                with self._client() as client:
                    client.lpush(QUEUE, payload)
            except REDIS_ERRORS:
                time.sleep(PAUSE_SECONDS)
            else:
                return

    def wait_answered(self, part: float, timeout: float) -> bool:
        """Wait until this part of the load is answered; False after a timeout."""
        return self.observer.wait(lambda: len(self.observer.answered_at) >= part * self.load.count, timeout)

    def wait_pushed(self, timeout: float) -> bool:
        """Wait until the whole load is pushed."""
        return self.observer.wait(lambda: len(self.accepted_at) >= self.load.count, timeout)

    def wait_all(self, timeout: float, *, but: Collection[object] = ()) -> bool:
        """Wait until all pushed tasks are answered, except perhaps those of `but`; False after a timeout."""
        return self.observer.wait(lambda: self._unanswered() <= set(but), timeout)

    @property
    def is_over(self) -> bool:
        """Whether the whole load is pushed and answered."""
        return self.wait_pushed(0) and self.wait_all(0)

    def unanswered(self) -> set[Task]:
        with self.observer.changed:
            return self._unanswered()

    def note_retried(self, tasks: Collection[Task]) -> None:
        """Note that an operator has requeued these tasks."""
        self.pushes.update(tasks)
        self.reordered.update(tasks)

    def in_order(self, utterances: Iterable[Utterance]) -> bool:
        """Whether the tasks are in the order in which they were pushed, ignoring those that an operator requeued."""
        numbers = [utterance.number for utterance in utterances if utterance.task not in self.reordered]
        return numbers == sorted(numbers)

    def answered_since(self, moment: float) -> set[Task]:
        """The tasks whose first reply was heard after that moment of the monotonic clock."""
        with self.observer.changed:
            return {task for task, at in self.observer.answered_at.items() if at > moment}

    def tasks_of(self, users: Iterable[str]) -> set[Task]:
        """All tasks of these users so far."""
        wanted = set(users)
        with self.observer.changed:
            return {task for task in self.utterances if task.user in wanted}

    def _unanswered(self) -> set[Task]:
        return self.pushed_at.keys() - self.observer.answered_at.keys()

    def prefix_of(self, task: Task) -> str:
        """What begins the text of a task, in front of the utterance."""
        return self.load.prefix + (SPOKEN if task in self.streamed else "")

    def _interrupt(self) -> None:
        """Push the users' interrupts when they are due; one whose push is not confirmed is pushed again."""
        while not self._over.wait(PAUSE_SECONDS):
            with self.observer.changed:
                due = [one for one in self._interrupts if one[0] <= time.monotonic()]
            for one in due:
                _, task, heard = one
                message = {"type": "interrupt", "user_id": task.user, "task_id": task.task_id, **heard}
                try:
                    with self._client() as client:
                        client.lpush(CONTROL, json.dumps(message, ensure_ascii=False))
                except REDIS_ERRORS:
                    continue
                self._interrupts.remove(one)

    def _talk(self) -> None:
        pause = self.load.seconds / self.load.count
        users = [user for user in self.users if user not in self._choosing]
        for _ in range(self.load.messages):
            for user in users:
                if self._over.is_set():
                    return
                self._push(user)
                time.sleep(pause)

    def _talk_and_choose(self, user: str) -> None:
        """A third as one is remembered, a third in private, a third as the user's place wants it."""
        third = max(1, self.load.messages // 3)
        comes_back = bool(self._places[user] % 2)
        for number in range(self.load.messages):
            if self._over.is_set():
                return
            if number == third:
                self._switch(user, permanent_memory=False)
            if number == 2 * third and comes_back:
                self._switch(user, permanent_memory=True)
            self._push(user)
            time.sleep(self.load.seconds / self.load.messages)

    def _switch(self, user: str, *, permanent_memory: bool) -> None:
        if self._choose is None:
            return
        if permanent_memory:
            self.observer.wait(lambda: not self._unanswered_of(user), _CHOICE_SECONDS)
        with self.observer.changed:
            self.unsure |= self._unanswered_of(user)
        if not choose_until_confirmed(self._choose, user, permanent_memory, self._over.is_set):
            return
        if permanent_memory:
            self.opted_out.discard(user)
            self.opted_in_at[user] = time.monotonic()
        else:
            self.opted_out.add(user)

    def _unanswered_of(self, user: str) -> set[Task]:
        return {task for task in self._unanswered() if task.user == user}

    def _next_of(self, user: str) -> Utterance:
        with self.observer.changed:  # two faults may speak at once
            number = self._next[user]
            self._next[user] += 1
            utterance = Utterance(user, number, self.load.persona(self._places[user], number))
            self.utterances[utterance.task] = utterance
            self.pushed_at[utterance.task] = time.monotonic()
            if user in self.opted_out:
                self.private.add(utterance.task)
            self._ask_for_stream(utterance)
        return utterance

    def _ask_for_stream(self, utterance: Utterance) -> None:
        load, place, number, task = self.load, self._places[utterance.user], utterance.number, utterance.task
        if place >= load.users or not load.is_streamed(place, number):
            return
        self.streamed.add(task)
        if number < load.messages and load.is_interrupted(place, number):
            heard = self._random.choice(({}, {"heard": {"seq": 0}}, {"heard": {"seq": 1, "characters": 3}}))
            self._interrupts.append((time.monotonic() + self._random.uniform(0.0, 0.5), task, heard))

    def _push(self, user: str) -> Task:
        utterance = self._next_of(user)
        task = utterance.task
        payload = utterance.payload(self.prefix_of(task), stream=task in self.streamed)
        while not self._over.is_set():
            self.pushes[task] += 1
            try:
                with self._client() as client:
                    client.set_retry(_ONCE)
                    client.lpush(QUEUE, payload)
            except REDIS_ERRORS:
                time.sleep(PAUSE_SECONDS)
            else:
                break
        with self.observer.changed:
            self.accepted_at[task] = time.monotonic()
            self.observer.changed.notify_all()
        return task
