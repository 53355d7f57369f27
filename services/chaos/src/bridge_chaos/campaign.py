"""Many runs: each fault at least once, then over again while there is time."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Final

import httpx

from bridge_chaos.fault import Fault, Scene
from bridge_chaos.load import Conversation
from bridge_chaos.promises import Verdict, judge
from bridge_chaos.rig import Lab, Rig, Shape, wait_until
from local_stack.services import Bridge

_CLOSING: Final = 6
"""Last messages of every user at most, until all of them are Letta's again: a breaker lets one turn try first."""
_BREAKERS: Final = 60.0
"""Seconds until a breaker that was opened may try."""
_CLOSED: Final = 60.0


@dataclass
class Run:
    """How one run ended."""

    fault: str
    seed: int
    struck: bool
    """False where the load was over before the fault came."""
    verdict: Verdict
    recovery: list[float]
    """Seconds from the fault's beginning to the reply, of each task that was unanswered then."""
    seconds: float
    remarks: list[str] = field(default_factory=list)
    unkept: frozenset[str] = frozenset()

    @property
    def broken(self) -> dict[str, int]:
        """Promise → how often it was broken, those that cannot be kept under this fault left out."""
        return {name: count for name, count in self.verdict.broken.items() if name not in self.unkept}


def run_once(rig: Rig, fault: Fault, seed: int) -> Run:
    """Load, fault, rest, judgement."""
    began = time.monotonic()
    random = Random(f"{fault.name}-{seed}")  # noqa: S311 - the same choice for the same seed
    rig.renew()
    conversation = Conversation(
        rig.client, fault.load, f"{fault.name.replace('/', '.')}-{seed}-{rig.lab.number()}".replace(".", "_")
    )
    scene = Scene(rig, conversation, random)
    try:
        fault.prepare(scene)
        conversation.begin()
        if not fault.at_once:
            conversation.wait_answered(random.uniform(0.05, 0.6), 60.0)
        fault.act(scene)
        conversation.wait_pushed(60.0)
        conversation.wait_all(fault.patience)
        close_talk(rig, conversation)
        verdict = asyncio.run(judge(rig, conversation))
    finally:
        conversation.close()
    verdict.accounts += scene.problems
    return Run(
        fault.name, seed, scene.struck_at is not None, verdict, _recovery(scene), time.monotonic() - began,
        scene.remarks, fault.unkept,
    )  # fmt: skip


def close_talk(rig: Rig, conversation: Conversation) -> None:
    """Everybody says one more, so that agents are told what they missed; again where it was not Letta who answered."""
    for _ in range(_CLOSING):
        wait_until(lambda: not any(_open_breakers(bridge) for bridge in rig.bridges), _BREAKERS, pause=0.2)
        last = conversation.say_one_more_of(conversation.users)
        if not conversation.wait_for(last, _CLOSED):
            return
        if all(conversation.replies[task][-1].get("source") == "letta" for task in last):
            return


def _open_breakers(bridge: Bridge) -> bool:
    return "open" in httpx.get(f"{bridge.url}/health").json()["breakers"].values()


def _recovery(scene: Scene) -> list[float]:
    if scene.struck_at is None:
        return []
    answered = scene.conversation.answered_at
    return [answered[task] - scene.struck_at for task in scene.waiting if task in answered]


class Campaign:
    """Runs over rigs that are shared as far as shapes allow.

    Args:
        lab: where the rigs live.
        faults: what to try.
        seed: of the first round; each further round has the next one.
        tell: hears of each run as it ends.
    """

    def __init__(self, lab: Lab, faults: Sequence[Fault], seed: int, tell: Callable[[Run], None]) -> None:
        self._lab = lab
        self._faults = list(faults)
        self._seed = seed
        self._tell = tell
        self.runs: list[Run] = []
        self.skipped: dict[str, str] = {}
        """Fault → what this machine lacks for it."""

    def run(self, minutes: float | None) -> None:
        """Every fault once; or round after round, each in another order, as long as a run begins within `minutes`."""
        if minutes is None:
            self._round(0, float("inf"))
            return
        until = time.monotonic() + 60 * minutes
        for number in itertools.count():
            if time.monotonic() > until:
                return
            Random(self._seed + number).shuffle(self._faults)  # noqa: S311 - the same order for the same seed
            self._round(number, until)

    def _round(self, number: int, until: float) -> None:
        for shape, faults in self._by_shape():
            waiting = deque(faults)
            while waiting and time.monotonic() < until:
                self._on_one_rig(shape, waiting, self._seed + number, until)

    def _on_one_rig(self, shape: Shape, waiting: deque[Fault], seed: int, until: float) -> None:
        """Run what waits; a run that breaks off takes its rig with it."""
        rig: Rig | None = None
        with ExitStack() as held:
            while waiting and time.monotonic() < until:
                fault = waiting.popleft()
                began = time.monotonic()
                try:
                    rig = rig or held.enter_context(Rig(self._lab, shape))
                    self._add(run_once(rig, fault, seed))
                except Exception as error:  # noqa: BLE001 - the other faults are to be tried all the same
                    verdict = Verdict(accounts=[f"the run broke off: {error!r}"])
                    self._add(Run(fault.name, seed, False, verdict, [], time.monotonic() - began))
                    return

    def _by_shape(self) -> list[tuple[Shape, list[Fault]]]:
        groups: dict[Shape, list[Fault]] = {}
        for fault in self._faults:
            if reason := fault.missing():
                self.skipped[fault.name] = reason
            else:
                groups.setdefault(fault.shape, []).append(fault)
        return list(groups.items())

    def _add(self, run: Run) -> None:
        self.runs.append(run)
        self._tell(run)


def totals(runs: Sequence[Run]) -> Counter[str]:
    """Promise → how often it was broken where it can be kept."""
    counts: Counter[str] = Counter()
    for run in runs:
        counts.update(run.broken)
    return counts
