"""Two bridges with different data directories, leases, limits or personas; and a bridge that is frozen while idle."""

from __future__ import annotations

from typing import Final

from bridge_chaos.environment import LEASE_SECONDS
from bridge_chaos.fault import Fault, FaultContext, Window, parts
from bridge_chaos.load import Load
from bridge_chaos.speaker import Speaker
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import restart

_NAP_COUNT: Final = 3
_NAP_SECONDS: Final = 3 * LEASE_SECONDS
"""Longer than the lease and the looks of whoever takes over, and shorter than what the bridge waits for Redis."""
_IDLE_SECONDS: Final = 1.5
"""After its last turn a bridge waits for work again."""
_BURST_SIZE: Final = 8
_OTHER_QUEUE: Final = "other_requests"
_DIED_SECONDS: Final = 60.0
_AWAY_SECONDS: Final = 6.0
_ONE: Final = parts("bridge")
_UNKNOWN_PERSONA: Final = Window(
    "A bridge answers messages to a persona that it does not know with the default persona: until all bridges have "
    "read the new configuration, a user's messages to the new persona may reach the default persona's agent.",
    frozenset({"strangers", "forgotten", "out_of_order"}),
)


def faults() -> list[Fault]:
    """All of them."""
    return [
        Fault(
            "bridges/idle-frozen",
            f"a bridge is frozen for {_NAP_SECONDS:g} s while it waits for tasks, {_NAP_COUNT} times",
            _naps,
            load=Load(users=4, messages=2, seconds=1.0),
            occupies=_ONE,
        ),
        Fault(
            "bridges/own-data",
            "the bridges have separate data directories and no database; one gets SIGKILL",
            _kill,
            topology=Topology(own_data=True, database=False),
            occupies=_ONE,
        ),
        Fault(
            "bridges/own-leases",
            "one bridge has four times the lease of the other, and gets SIGKILL",
            _kill_second,
            topology=Topology(uneven=(("LEASE_SECONDS", f"{4 * LEASE_SECONDS:g}"),)),
            occupies=parts("bridges"),
        ),
        Fault(
            "bridges/own-limits",
            "one bridge limits a user to three waiting tasks, the other does not, and one gets SIGKILL during bursts",
            _bursts,
            topology=Topology(uneven=(("LIMIT_MAX_PENDING_PER_USER", "3"),), latency=0.4),
            occupies=parts("bridges"),
        ),
        Fault(
            "bridges/overflow",
            "a user's tasks are refused because three already wait, and the bridge gets SIGKILL while it refuses them",
            _overflow,
            topology=Topology(variables=(("LIMIT_MAX_PENDING_PER_USER", "3"),), latency=0.4),
            occupies=parts("bridges"),
        ),
        Fault(
            "bridges/own-queues",
            "each bridge serves the queue of another tenant; the tenants' users have the same ids and share one Letta",
            _two_tenants,
            topology=Topology(uneven=(("LETTA_REQUESTS", _OTHER_QUEUE), ("TENANT", "other"))),
            needs=parts("letta", "redis", "bridges"),
        ),
        Fault(
            "bridges/own-fallback",
            "one bridge has the fallback to memory-python disabled, and Letta is unavailable for 6 s",
            _letta_away,
            topology=Topology(uneven=(("LETTA_FALLBACK", "false"),)),
            occupies=parts("letta-link"),
        ),
        Fault(
            "bridges/own-personas",
            "one bridge lacks a persona that the other one has",
            _kill_covering_personas,
            topology=Topology(uneven=(("LETTA_BRIDGE_AGENTS_PERSONAS", '{"default":{}}'),)),
            window=_UNKNOWN_PERSONA,
            occupies=_ONE,
        ),
    ]


def _naps(context: FaultContext) -> None:
    """Push two tasks when the bridge freezes: Redis hands it one of them, which the other bridge takes over."""
    context.conversation.wait_pushed(_DIED_SECONDS)
    context.conversation.wait_all(_DIED_SECONDS)
    speakers = [Speaker(context, f"awake{number}") for number in range(2)]
    for nap in range(_NAP_COUNT):
        context.let_pass(_IDLE_SECONDS)
        context.strike()
        context.victim.pause()
        tasks = [speaker.say(f"Nap {nap}.", str(nap)) for speaker in speakers]
        context.let_pass(_NAP_SECONDS)
        context.victim.resume()
        for speaker, task in zip(speakers, tasks, strict=True):
            speaker.reply(task)
        context.let_pass(_IDLE_SECONDS)
    for speaker in speakers:
        told = speaker.told()
        wanted = [f"Nap {nap}." for nap in range(_NAP_COUNT)]
        context.check("repeated_messages", told == wanted, f"{speaker.user}: {told}", speaker.user)


def _kill(context: FaultContext) -> None:
    context.strike()
    restart(context.victim)


def _kill_second(context: FaultContext) -> None:
    context.strike()
    restart(context.environment.bridges[1])


def _kill_covering_personas(context: FaultContext) -> None:
    talk = context.conversation
    talk.wait_pushed(60.0)
    _kill(context)
    talk.wait_all(60.0)
    context.covered_users.update(talk.users[: talk.load.with_persona])


def _bursts(context: FaultContext) -> None:
    _burst(context)
    context.strike()
    restart(context.random.choice(context.environment.bridges))
    _burst(context)


def _overflow(context: FaultContext) -> None:
    """The bridge dies while it refuses a task: the second bridge receives the task as a repeated hand-out."""
    bridges = context.environment.bridges
    for bridge in bridges:
        bridge.kill()
    _burst(context, wait=False)
    context.strike()
    context.environment.die_at(f"taken:KILL:{context.random.randint(6, 8)}", *bridges)
    _burst(context)


def _burst(context: FaultContext, *, wait: bool = True) -> None:
    """Two users push more tasks at once than may wait: each task is answered or refused, in order."""
    number = context.environment.workspace.number()
    speakers = [Speaker(context, f"burst{number}-{name}") for name in "ab"]
    for place in range(_BURST_SIZE):
        for speaker in speakers:
            speaker.say(f"Burst {place}.", str(place))
    if not wait:
        return
    for speaker in speakers:
        for place in range(_BURST_SIZE):
            reply = speaker.reply(speaker.task(str(place)))
            context.check("lost", bool(reply), f"{speaker.user} #{place}", speaker.user)
        told = speaker.told()
        context.check("out_of_order", told == sorted(told), f"{speaker.user}: {told}", speaker.user)
        context.check("repeated_messages", len(told) == len(set(told)), f"{speaker.user}: {told}", speaker.user)


def _two_tenants(context: FaultContext) -> None:
    """No agent of one tenant knows messages to the other."""
    context.strike()
    speakers = [Speaker(context, "", user=user) for user in context.conversation.users[:_BURST_SIZE]]
    for speaker in speakers:
        speaker.say("This is for the other tenant.", "other", queue=_OTHER_QUEUE)
    for speaker in speakers:
        reply = speaker.reply(speaker.task("other"))
        context.check("lost", bool(reply), f"{speaker.user} of the other tenant got no answer", speaker.user)
        known = speaker.is_known("This is for the other tenant.")
        text = f"the agent of {speaker.user} knows what was said to another tenant"
        context.check("strangers", not known, text, speaker.user)


def _letta_away(context: FaultContext) -> None:
    context.strike()
    context.environment.letta.link.refuse()
    context.let_pass(_AWAY_SECONDS)
    context.environment.letta.link.resume()
