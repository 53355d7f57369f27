"""Users without permanent memory, during events that could lose their choice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any, Final

import httpx

from bridge_chaos.environment import PERSONA
from bridge_chaos.fault import Fault, FaultContext, parts
from bridge_chaos.load import Load
from bridge_chaos.speaker import Speaker
from bridge_chaos.topology import Topology
from bridge_chaos.waiting import restart, revive, wait_until

_SPEAKERS: Final = 3
_AWAY_SECONDS: Final = 6.0
_ADDED_PERSONA: Final = "tutor"
_FOLLOWED_SECONDS: Final = 30.0
_MANY_CHOICES: Final = Load(users=16, messages=9, seconds=9.0, choosing=8)
_OWN_DATA: Final = Topology(own_data=True)
_OWN_FILES: Final = Topology(own_data=True, database=False)
_BOTH: Final = parts("bridges")


def faults() -> list[Fault]:
    """All of them."""
    return [
        Fault(
            "consent/switching",
            "half of the users switch permanent memory off and on, and a bridge gets SIGKILL",
            _kill_one,
            load=_MANY_CHOICES,
            occupies=parts("bridge"),
        ),
        Fault(
            "consent/own-data",
            "the bridges have separate data directories and no database, and both get SIGKILL",
            _kill_both,
            topology=_OWN_FILES,
            load=_MANY_CHOICES,
            occupies=_BOTH,
        ),
        Fault(
            "consent/new-host",
            "a bridge starts with an empty data directory while the database is unavailable",
            _in_private(_start_on_new_host),
            topology=_OWN_DATA,
            occupies=_BOTH | parts("postgres"),
        ),
        Fault(
            "consent/session-ended",
            "the sessions of users who switched permanent memory off are ended, then removed permanently",
            _in_private(_end_sessions),
            needs=parts("bridges", "postgres"),
        ),
        Fault(
            "consent/persona-added",
            "a persona is added to the configuration after users switched permanent memory off",
            _in_private(_add_persona, persona=_ADDED_PERSONA),
            occupies=_BOTH,
        ),
        Fault(
            "consent/agent-exists",
            "users switch permanent memory off before their agent receives its missed turns",
            _after_missed_turns,
            occupies=parts("letta-link"),
        ),
    ]


def _kill_one(context: FaultContext) -> None:
    context.strike()
    restart(context.victim)


def _kill_both(context: FaultContext) -> None:
    context.strike()
    restart(*context.environment.bridges)


def _in_private(
    happen: Callable[[FaultContext, list[Speaker], Callable[[], None]], None], *, persona: str | None = None
) -> Callable[[FaultContext], None]:
    """Users switch permanent memory off before an event; no agent may contain their messages from then on."""

    def act(context: FaultContext) -> None:
        speakers = [Speaker(context, f"private{number}") for number in range(_SPEAKERS)]
        fields: dict[str, Any] = {"meta": {"persona": persona}} if persona else {}
        for speaker in speakers:
            speaker.ask("I am remembered.", "0")
            speaker.choose(permanent_memory=False)
        said: list[str] = []

        def speak() -> None:
            words = f"This is secret number {len(said)}."
            said.append(words)
            for speaker in speakers:
                speaker.say(words, str(len(said)), **fields)
            for speaker in speakers:
                speaker.reply(speaker.task(str(len(said))))

        speak()
        context.strike()
        happen(context, speakers, speak)
        speak()
        for speaker in speakers:
            for words in said:
                text = f"{speaker.user} said {words!r} in private, and an agent knows"
                context.check("consent", not speaker.is_known(words), text, speaker.user)

    return act


def _start_on_new_host(context: FaultContext, _speakers: list[Speaker], speak: Callable[[], None]) -> None:
    environment = context.environment
    environment.postgres.kill()
    for number, bridge in enumerate(environment.bridges):
        bridge.kill()
        if bridge is context.victim:
            shutil.rmtree(environment.data(number))
            environment.data(number).mkdir()
    revive(context.victim)
    speak()
    context.let_pass(_AWAY_SECONDS)
    revive(environment.postgres, *environment.bridges)


def _end_sessions(context: FaultContext, speakers: list[Speaker], speak: Callable[[], None]) -> None:
    for hard in (False, True):
        for speaker in speakers:
            wait_until(_ending(context, speaker.user, hard=hard), _FOLLOWED_SECONDS)
        speak()


def _ending(context: FaultContext, user: str, *, hard: bool) -> Callable[[], bool]:
    """End all sessions of a user over the HTTP interface, as an operator's program would; whether that succeeded."""
    url = f"{context.environment.bridges[0].url}/api/sessions/postgres/sessions"
    gone = {httpx.codes.OK, httpx.codes.NOT_FOUND}

    def end() -> bool:
        found = httpx.get(url, params={"user_id": user, "include_inactive": True}).raise_for_status().json()
        addresses = [f"{url}/{session['session_id']}" for session in found["sessions"]]
        return {httpx.delete(address, params={"hard": hard}).status_code for address in addresses} <= gone

    return end


def _add_persona(context: FaultContext, _speakers: list[Speaker], _speak: Callable[[], None]) -> None:
    personas: dict[str, dict[str, str]] = {"default": {}, PERSONA: {}, _ADDED_PERSONA: {}}
    for bridge in context.environment.bridges:
        context.environment.give(bridge, {"LETTA_BRIDGE_AGENTS_PERSONAS": json.dumps(personas)})
    restart(*context.environment.bridges)


def _after_missed_turns(context: FaultContext) -> None:
    """Agents may receive missed turns from before the choice, but none from after it."""
    speakers = [Speaker(context, f"private{number}") for number in range(_SPEAKERS)]
    for speaker in speakers:
        speaker.ask("I am remembered.", "0")
    context.strike()
    context.environment.letta.link.refuse()
    for speaker in speakers:
        speaker.ask("You missed this.", "1")
        speaker.choose(permanent_memory=False)
        speaker.ask("This is secret.", "2")
    context.environment.letta.link.resume()
    for speaker in speakers:
        speaker.ask("This is secret, too.", "3")
        speaker.choose(permanent_memory=True)
        speaker.ask("I am remembered again.", "4")
    for speaker in speakers:
        known = [words for words in ("This is secret.", "This is secret, too.") if speaker.is_known(words)]
        context.check("consent", not known, f"{speaker.user} said {known} in private, and an agent knows", speaker.user)
