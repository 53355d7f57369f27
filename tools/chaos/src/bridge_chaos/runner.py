"""One run: load, faults, recovery, verdict."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

import httpx

from bridge_chaos.choices import Chooser
from bridge_chaos.conversation import Conversation
from bridge_chaos.environment import LEASE_SECONDS, Environment
from bridge_chaos.fault import Fault, FaultContext
from bridge_chaos.promises import ALWAYS, Verdict, judge
from bridge_chaos.promises.verdict import Finding, count
from bridge_chaos.scenario import Phase, Scenario
from bridge_chaos.waiting import wait_until
from local_stack.services import Bridge

_BEGUN_SECONDS: Final = 120.0
_PUSHED_SECONDS: Final = 180.0
_CLOSING_SECONDS: Final = 120.0
"""Until all users are Letta's again: a breaker lets one turn try first, a claim on an agent ends by itself."""
_BREAKER_SECONDS: Final = 90.0
"""Until a breaker that was opened may try."""
_CLOSED_SECONDS: Final = 90.0
_STRUCK_SECONDS: Final = 120.0
_DURING_SECONDS: Final = (0.1, 2.0)


@dataclass
class Run:
    """How one run ended."""

    scenario: Scenario
    seed: int
    struck: bool
    """False where the load was over before a fault came."""
    verdict: Verdict
    recovery: list[float] = field(default_factory=list)
    """Seconds from the last fault's beginning to the reply, of each task that was unanswered then."""
    seconds: float = 0.0
    remarks: list[str] = field(default_factory=list)
    excused: list[Finding] = field(default_factory=list)
    """Findings in a fault's window."""
    commit: str = ""
    """Of the sources it was made with; see `provenance`."""
    machine: str = ""
    """Where and when it was made."""

    @property
    def name(self) -> str:
        return self.scenario.name

    @property
    def broken(self) -> Counter[str]:
        """Promise → how often it was broken outside any window."""
        return count(finding for finding in self.verdict.findings if finding not in self.excused)


def run_once(environment: Environment, scenario: Scenario, seed: int) -> Run:
    """Run a scenario. The seed chooses users, victims and times; not the machine's own timing."""
    began = time.monotonic()
    environment.renew()
    tag = f"{scenario.first.name.replace('/', '-')}-{seed}-{environment.workspace.number()}"
    chooser = Chooser(environment.doors)
    conversation = Conversation(environment.client, scenario.load, tag, chooser)
    contexts = _contexts(environment, conversation, scenario, seed)
    try:
        _strike(scenario, contexts, conversation)
        conversation.wait_pushed(_PUSHED_SECONDS)
        # Of these no reply need be in the stream: what is refused while its user is erased is published alone.
        reasons = [found for context in contexts for found in (context.covered, context.expected)]
        may_be_lost = {task for found in reasons for task in found.get("lost", ())}
        conversation.wait_all(scenario.patience, but=may_be_lost)
        close_talk(environment, conversation)
        environment.letta.wait_idle(_CLOSED_SECONDS)
        verdict = judge(environment, conversation)
    finally:
        conversation.close()
    return _run(scenario, seed, contexts, verdict, time.monotonic() - began)


def close_talk(environment: Environment, conversation: Conversation) -> None:
    """Every user sends one more message, so that agents receive their missed turns; repeated until Letta answers."""
    observer = conversation.observer
    users = [user for user in conversation.users if user not in conversation.opted_out]
    until = time.monotonic() + _CLOSING_SECONDS
    for pause in itertools.count():
        wait_until(lambda: not any(_has_open_breaker(b) for b in environment.bridges), _BREAKER_SECONDS, pause=0.2)
        last = conversation.say_one_more_of(users)
        if not observer.wait_for(last, _CLOSED_SECONDS):
            return
        fallen_back = {task.user for task in last if observer.last(task).get("source") != "letta"}
        users = [user for user in users if user in fallen_back]
        if not users or time.monotonic() > until:
            return
        time.sleep(pause)


def _contexts(
    environment: Environment, conversation: Conversation, scenario: Scenario, seed: int
) -> list[FaultContext]:
    """Each fault's view of the run; two faults that affect a bridge get different ones."""
    contexts = []
    bridges = environment.bridges
    for place, fault in enumerate(scenario.faults):
        random = Random(f"{scenario.name}-{seed}-{place}" if place else f"{fault.name}-{seed}")  # noqa: S311 - repeatable
        victim = bridges[place if scenario.phase is not Phase.RECOVERY else random.randrange(len(bridges))]
        contexts.append(FaultContext(environment, conversation, random, victim if place else bridges[0]))
    return contexts


def _strike(scenario: Scenario, contexts: list[FaultContext], conversation: Conversation) -> None:
    first, second = scenario.first, scenario.second
    first.prepare(contexts[0])
    if second is not None and scenario.phase is not Phase.RECOVERY:
        second.prepare(contexts[1])
    conversation.begin()
    if second is None:
        _act(first, contexts[0])
        return
    acts = [_InThread(lambda: _act(first, contexts[0]))]
    acts.append(_InThread(lambda: _act_second(scenario, second, contexts, acts[0])))
    for act in acts:
        act.start()
    for act in acts:
        act.finish()


def _act(fault: Fault, context: FaultContext) -> None:
    if not fault.at_once:
        context.conversation.wait_answered(context.random.uniform(0.05, 0.6), _BEGUN_SECONDS)
    fault.act(context)


def _act_second(scenario: Scenario, fault: Fault, contexts: list[FaultContext], first: _InThread) -> None:
    context = contexts[1]
    if scenario.phase is Phase.RECOVERY:
        first.join()
        context.let_pass(context.random.uniform(0.0, LEASE_SECONDS))
        fault.prepare(context)
    else:
        wait_until(lambda: contexts[0].struck.is_set() or not first.is_alive(), _STRUCK_SECONDS)
    if scenario.phase is Phase.DURING:
        context.let_pass(context.random.uniform(*_DURING_SECONDS))
    fault.act(context)


class _InThread(threading.Thread):
    """Work in a thread, whose error is raised in the thread that waits for its end."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised again by `finish`
            self._error = error

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            BaseException: what the work has raised.
        """
        self.join()
        if self._error is not None:
            raise self._error


def _run(scenario: Scenario, seed: int, contexts: list[FaultContext], verdict: Verdict, seconds: float) -> Run:
    for context in contexts:
        verdict.findings += context.findings
        verdict.checked |= context.checked
    verdict.findings = [f for f in verdict.findings if not any(_is_expected(f, context) for context in contexts)]
    pairs = list(zip(scenario.faults, contexts, strict=True))
    return Run(
        scenario,
        seed,
        struck=all(context.struck_at is not None for context in contexts),
        verdict=verdict,
        recovery=_recovery(contexts[-1]),
        seconds=seconds,
        remarks=[remark for context in contexts for remark in context.remarks],
        excused=[
            finding
            for finding in verdict.findings
            if finding.promise in ALWAYS or any(fault.excuses(finding, context) for fault, context in pairs)
        ],
    )


def _is_expected(finding: Finding, context: FaultContext) -> bool:
    return finding.subject in context.expected.get(finding.promise, ())


def _has_open_breaker(bridge: Bridge) -> bool:
    health = httpx.get(f"{bridge.url}/health")
    return not health.is_success or "open" in health.json()["breakers"].values()


def _recovery(context: FaultContext) -> list[float]:
    if context.struck_at is None:
        return []
    answered = context.conversation.observer.answered_at
    return [answered[task] - context.struck_at for task in context.waiting if task in answered]
