"""Faults, kills, cancels and lost writes in any order: each message is in its own agent once, and none is missing."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from letta_bridge.errors import LettaRejected, LettaUnavailable, OutcomeUnknown
from letta_bridge.letta import LettaServers, TurnAnswer
from letta_bridge.request_queue.lease_clock import clock
from letta_bridge.testing.letta import Hold, echo
from letta_bridge.testing.virtual_time import VirtualTimeLoop
from letta_bridge.turn.lease import TurnLease

if TYPE_CHECKING:
    from letta_bridge_tests.conftest import Rig

PERSONAS = ("default", "doctor")
FAULTS = {
    "refused": (LettaRejected("no", cause="letta_credentials"), "nothing"),
    "away": (LettaUnavailable(), "nothing"),
    "failed": (OutcomeUnknown(cause="server_error"), "nothing"),
    "failed late": (OutcomeUnknown(cause="server_error"), "message"),
    "failed without its database": (OutcomeUnknown(cause="server_error"), "nothing"),
    "failed at its end without its database": (OutcomeUnknown(cause="server_error"), "answer"),
    "lost before": (OutcomeUnknown(cause="connection_lost"), "nothing"),
    "lost after": (OutcomeUnknown(cause="connection_lost"), "answer"),
}
LETTA = st.sampled_from(["well", "slow", "silent", *FAULTS])
MEMORY = st.sampled_from(["well", "canned", "away"])
STEPS = st.one_of(
    st.tuples(st.just("say"), st.sampled_from(PERSONAS), LETTA, MEMORY),
    st.tuples(st.just("kill"), st.sampled_from(PERSONAS), LETTA, MEMORY),
    st.tuples(st.just("kill letta"), st.sampled_from(PERSONAS), MEMORY),
    st.tuples(st.just("push again"), st.just(""), LETTA, MEMORY),
    st.tuples(st.sampled_from(["release", "cancel", "expire", "lose"])),
)


class World:
    """One user with two agents, and everything that can go wrong for them."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.said: dict[str, Any] = {}
        """What was said → task id and persona."""
        self.holds: list[Any] = []
        self.before: dict[str, Any] = {}
        self.cancelled = False

    async def step(self, name: str, *args: str) -> None:
        self.before = {user: list(records) for user, records in self.rig.shelf.missed.items()}
        steps: dict[str, Callable[..., Awaitable[None]]] = {
            "say": self.say,
            "kill": self.kill,
            "kill letta": self.kill_letta,
            "push again": self.push_again,
            "release": self.release,
            "cancel": self.cancel,
            "expire": self.expire,
            "lose": self.lose,
        }
        await steps[name](*args)

    def prepare(self, letta: Any, memory: str) -> None:
        self.rig.fallback.down, self.rig.fallback.canned = memory == "away", memory == "canned"
        self.rig.letta._answer = (lambda _agent, _messages: TurnAnswer("")) if letta == "silent" else echo
        self.rig.letta._hold = None
        self.rig.letta._faults.clear()
        if letta == "slow":
            self.rig.letta._hold = Hold()
            self.holds.append(self.rig.letta._hold)
        elif letta in FAULTS:
            error, stored = FAULTS[letta]
            # Letta without its database cannot write that the run is over.
            self.rig.letta.fail_next(error, stored=cast("Any", stored), leave_run="without its database" in letta)

    def push(self, persona: str) -> str:
        content = f"message {len(self.said)}"
        # Producers use an id again as soon as they may.
        task_id = "1" if ("ada", "1") not in self.rig.shelf.kept else f"unique {len(self.said)}"
        self.said[content] = (task_id, persona)
        self.rig.push(task_id, content=content, meta={"persona": persona})
        return content

    def check_reply(self, content: str) -> None:
        """Whatever came of it, nobody gets the answer to something else."""
        reply = json.loads(self.rig.shelf.kept["ada", self.said[content][0]])
        if reply.get("source") == "letta":
            assert reply["response_text"] == f"echo: {content}"

    async def say(self, persona: str, letta: str, memory: str) -> None:
        self.prepare(letta, memory)
        content = self.push(persona)
        await self.rig.work_off()
        self.check_reply(content)

    async def kill(self, persona: str, letta: str, memory: str) -> None:
        """The bridge is killed after it has done everything but settle."""
        self.prepare(letta, memory)
        content = self.push(persona)
        queue = self.rig.queue("dying")
        (turn,) = (await queue.settle_and_fetch([], 1)).turns
        await self.rig.processor(queue).process(turn, TurnLease(30, clock()))
        self.rig.time += self.rig.settings.queue.lease_seconds + 1
        await self.rig.work_off()
        self.check_reply(content)

    async def kill_letta(self, persona: str, memory: str) -> None:
        """It is killed, with all that runs, and started again after somebody has noticed."""
        await self.rig.letta.kill()
        self.rig.letta.down = self.rig.letta.refuses = True
        await self.say(persona, "well", memory)
        self.rig.letta.down = False

    async def push_again(self, _persona: str, letta: str, memory: str) -> None:
        for content, (task_id, persona) in self.said.items():
            kept = json.loads(self.rig.shelf.kept.get(("ada", task_id), b"{}"))
            if kept.get("retryable"):
                self.prepare(letta, memory)
                self.rig.push(task_id, content=content, meta={"persona": persona})
                await self.rig.work_off()
                self.check_reply(content)
                return

    async def release(self) -> None:
        for hold in self.holds:
            hold.release()
        await self.rig.letta.idle()

    async def cancel(self) -> None:
        """An operator cancels whatever runs."""
        self.cancelled = True
        for run_id, (agent_id, run) in list(self.rig.letta._runs.items()):
            if run.active:
                await self.rig.letta.cancel(agent_id, [run_id])

    async def expire(self) -> None:
        self.rig.shelf.kept.clear()

    async def lose(self) -> None:
        """A failover forgets what the last step removed."""
        for user, records in self.before.items():
            left = self.rig.shelf.missed.get(user, [])
            self.rig.shelf.missed[user] = [*records, *(record for record in left if record not in records)]

    async def end(self) -> None:
        """Everything works, and has all the time that a busy machine takes."""
        await self.release()
        patient = self.rig.delivery_context.letta.model_copy(
            update={"reply_deadline_seconds": 60.0, "timeout_seconds": 50.0}
        )
        self.rig.delivery_context = replace(self.rig.delivery_context, letta=patient)
        for _ in range(2):
            for persona in PERSONAS:
                self.rig.time += 1_000
                await self.say(persona, "well", "well")

    async def judge(self) -> None:
        rig: Any = self.rig
        answers = {}
        for reply in map(json.loads, rig.shelf.replies):
            if reply.get("source") == "letta":
                answers[reply["response_text"].removeprefix("echo: ")] = reply
        histories = {}
        for persona in PERSONAS:
            agent_id: Any = rig.store.sessions["ada", persona].agent_id
            histories[persona] = (await rig.letta.history(agent_id))[1:]
        for persona, history in histories.items():
            users = [entry["content"] for entry in history if entry["message_type"] == "user_message"]
            own = {content for content, (_, whose) in self.said.items() if whose == persona}
            counted = Counter(text for text in users if not text.startswith("{"))
            assert not {text: count for text, count in counted.items() if count > 1}
            assert counted.keys() <= own
            quoted = {json.loads(text)["quoted_user_message"] for text in users if text.startswith("{")}
            assert quoted <= own
            notes = [entry["content"] for entry in history if entry["message_type"] == "system_message"]
            assert not any("message 1" in note or "message 0" in note for note in notes)
            heard = {content for content, whose in rig.fallback.heard if whose == persona}
            assert heard | (answers.keys() & own) <= counted.keys() | quoted
        assert rig.shelf.missed == {}
        if not self.cancelled:
            # A cancel hides a turn that is still at work; nothing else may run beside one.
            assert rig.letta.overlaps == []


@settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, min_size=2, max_size=9))
@example(steps=[("say", "default", "slow", "well")] * 3)
@example(steps=[("say", "default", "slow", "away"), ("release",), ("say", "default", "refused", "well"),
                ("push again", "", "well", "well")])  # fmt: skip
@example(steps=[("say", "default", "refused", "well"), ("kill", "default", "slow", "well"), ("cancel",), ("lose",)])
def test_every_message_is_in_its_own_agent_once(make_rig: Callable[..., Rig], steps: list[Any]) -> None:
    async def run() -> None:
        rig: Any = make_rig(
            agents={"personas": {name: {} for name in PERSONAS}},
            letta={
                "reply_deadline_seconds": 0.1,
                "timeout_seconds": 0.02,
                "retry_attempts": 1,
                "previous_turn_timeout_seconds": 0.01,
            },
            queue={"max_deliveries": 2},
        )
        rig.breaker_failures = 1000  # nobody is left alone here
        rig.servers = LettaServers({"letta": rig.letta}, breaker=rig.breaker)
        rig.delivery_context = replace(rig.delivery_context, servers=rig.servers)
        rig.fallback.heard = []
        answer = rig.fallback.answer

        async def remembering(task: Any, number: str, reason: str, **how: Any) -> Any:
            answered = await answer(task, number, reason, **how)
            rig.fallback.heard.append((task.content, how["persona"]))
            return answered

        rig.fallback.answer = remembering
        world = World(rig)
        for persona in PERSONAS:
            await world.say(persona, "well", "well")
        for step in steps:
            await world.step(*step)
        await world.end()
        await world.judge()
        await rig.letta.close()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run())
