from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from letta_bridge.errors import (
    AgentGone,
    BreakerOpen,
    EarlierTurnRunning,
    EmptyAnswer,
    LettaError,
    LettaRejected,
    LettaUnavailable,
    OutcomeUnknown,
    TurnCancelled,
    TurnInterrupted,
    UserPaused,
)
from letta_bridge.letta import Breaker, BreakerPolicy, BreakerState, LettaServer, LettaServers
from letta_bridge.testing.letta import InMemoryLetta


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def servers(clock: Clock) -> LettaServers:
    policy = BreakerPolicy(failures=2, pause=5.0, jitter=0.0)
    return LettaServers(
        {name: InMemoryLetta() for name in ("http://a", "http://b", "http://c")},
        breaker=lambda: Breaker(policy, clock=clock),
    )


async def fail(server: LettaServer, error: LettaError, times: int = 2, user: str = "") -> None:
    for _ in range(times):
        with pytest.raises(type(error)), server.guard(user):
            raise error


async def time_out(servers: LettaServers, user: str, times: int = 2) -> None:
    """Turns of this user that last too long, on a server that answers everything else."""
    for _ in range(times):
        server = servers.pick(user)
        await fail(server, OutcomeUnknown(cause="timeout"), 1, user)
        server.answered()


USERS = [f"用户{i}" for i in range(600)]


def test_users_spread_and_stay(servers: LettaServers) -> None:
    homes = {user: servers.pick(user).name for user in USERS}
    assert homes == {user: servers.pick(user).name for user in USERS}
    assert all(count > 120 for count in Counter(homes.values()).values())
    assert len(set(homes.values())) == 3


async def test_only_the_users_of_a_broken_server_move(servers: LettaServers) -> None:
    homes = {user: servers.pick(user) for user in USERS}
    broken = servers.pick("somebody")
    await fail(broken, LettaUnavailable())
    moved = {user: servers.pick(user) for user in USERS}
    assert all(moved[user] is homes[user] for user in USERS if homes[user] is not broken)
    assert {moved[user].name for user in USERS if homes[user] is broken} == {s.name for s in servers if s is not broken}


async def test_picking_raises_breaker_open_where_every_server_failed(servers: LettaServers, clock: Clock) -> None:
    for server in servers:
        assert servers.available()
        await fail(server, LettaUnavailable())
    assert not servers.available()
    assert servers.ready_in() == 5.0
    assert set(servers.states().values()) == {BreakerState.OPEN}
    with pytest.raises(BreakerOpen, match=r"5\.0 seconds"):
        servers.pick("anybody")
    clock.now += 5.0
    assert servers.available()
    with servers.pick("anybody").guard():
        pass
    assert sorted(servers.states().values()) == [BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.HALF_OPEN]


@pytest.mark.parametrize(
    "error",
    [
        LettaUnavailable(),
        OutcomeUnknown(cause="timeout"),
        OutcomeUnknown(cause="connection_lost"),
        OutcomeUnknown(cause="server_error"),
    ],
    ids=str,
)
async def test_an_unavailable_server_opens_its_breaker(servers: LettaServers, error: LettaError) -> None:
    server = servers.pick("u")
    await fail(server, error)
    assert str(server.breaker.state) == "open"


@pytest.mark.parametrize(
    "error",
    [
        LettaUnavailable(busy=True),
        OutcomeUnknown(cause="conflict"),
        LettaRejected(),
        AgentGone(),
        EmptyAnswer(),
    ],
    ids=str,
)
async def test_an_answer_of_any_kind_is_a_sign_of_life(servers: LettaServers, error: LettaError) -> None:
    server = servers.pick("u")
    await fail(server, LettaUnavailable(), times=1)
    await fail(server, error, times=10)
    await fail(server, LettaUnavailable(), times=1)
    assert str(server.breaker.state) == "closed"


async def test_only_many_rate_limits_open(servers: LettaServers) -> None:
    server = servers.pick("u")
    await fail(server, OutcomeUnknown(cause="rate_limited"), times=7)
    assert str(server.breaker.state) == "closed"
    await fail(server, OutcomeUnknown(cause="rate_limited"), times=1)
    assert str(server.breaker.state) == "open"


async def test_one_turn_tries_and_its_cancellation_frees_the_place(servers: LettaServers, clock: Clock) -> None:
    server = servers.pick("u")
    await fail(server, LettaUnavailable())
    clock.now += 5.0
    inside = asyncio.Event()

    async def trying() -> None:
        with server.guard():
            inside.set()
            await asyncio.Event().wait()

    trial = asyncio.create_task(trying())
    await inside.wait()
    with pytest.raises(BreakerOpen), server.guard():
        pass
    assert servers.pick("u") is not server
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert str(server.breaker.state) == "half_open"
    with server.guard():
        pass
    assert str(server.breaker.state) == "closed"


async def test_only_the_user_with_failing_turns_is_paused(servers: LettaServers, clock: Clock) -> None:
    await time_out(servers, "mallory")
    with pytest.raises(UserPaused) as caught:
        servers.pick("mallory")
    assert caught.value.ready_in == 5.0
    assert servers.users.paused == 1
    assert set(servers.states().values()) == {BreakerState.CLOSED}
    assert all(servers.pick(user) for user in USERS)
    clock.now += 5.0
    await time_out(servers, "mallory", times=1)
    with pytest.raises(UserPaused) as caught:
        servers.pick("mallory")
    assert caught.value.ready_in == 10.0
    clock.now += 10.0
    with servers.pick("mallory").guard("mallory"):
        pass
    await time_out(servers, "mallory", times=1)
    servers.pick("mallory")  # does not raise UserPaused


async def test_a_server_that_is_down_costs_no_user_a_pause_of_their_own(servers: LettaServers, clock: Clock) -> None:
    server = servers.pick("ada")
    await fail(server, OutcomeUnknown(cause="timeout"), user="ada")
    assert server.breaker.state is BreakerState.OPEN
    assert servers.pick("ada") is not server
    clock.now += 5.0
    assert servers.pick("ada") is server


@pytest.mark.parametrize("error", [LettaRejected(), AgentGone(), EmptyAnswer(), LettaUnavailable(busy=True)], ids=str)
async def test_an_answer_ends_a_users_row_of_failures(servers: LettaServers, error: LettaError) -> None:
    for _ in range(5):
        await time_out(servers, "ada", times=1)
        await fail(servers.pick("ada"), error, 1, "ada")
    servers.pick("ada")  # does not raise UserPaused


async def test_only_so_many_users_failures_are_remembered(
    servers: LettaServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("letta_bridge.letta.servers._MAX_REMEMBERED_USERS", 3)
    policy = BreakerPolicy(failures=100)
    patient = LettaServers({"a": InMemoryLetta()}, breaker=lambda: Breaker(policy))
    for user in USERS[:10]:
        await time_out(patient, user, times=1)
    assert len(patient.users._breakers) == 3


async def test_a_cancelled_stream_shows_that_the_server_works(servers: LettaServers, clock: Clock) -> None:
    server = servers.pick("u")
    await fail(server, LettaUnavailable(), times=2)
    clock.now += 5.0
    await fail(server, TurnCancelled(), times=1)
    assert server.breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("error", [EarlierTurnRunning(), TurnInterrupted()], ids=str)
async def test_unsent_turn_does_not_affect_the_breaker(servers: LettaServers, clock: Clock, error: LettaError) -> None:
    server = servers.pick("u")
    await fail(server, LettaUnavailable(), times=1)
    await fail(server, error, times=5)
    before = server.breaker.state
    await fail(server, LettaUnavailable(), times=1)
    assert (before, server.breaker.state) == (BreakerState.CLOSED, BreakerState.OPEN)
    clock.now += 5.0
    await fail(server, error, times=1)
    assert str(server.breaker.state) == "half_open"
    with server.guard():
        pass


async def test_refused_connection_marks_a_server_as_gone(servers: LettaServers) -> None:
    first, *others = servers
    await fail(first, LettaUnavailable(refused=True), times=1)
    assert servers.gone_at() == 0.0, "another one may be at work"
    for server in others:
        await fail(server, LettaUnavailable(), times=1)
        assert servers.gone_at() == 0.0, "it is there, and does not answer"
        await fail(server, LettaUnavailable(refused=True), times=1)
    assert servers.gone_at() == pytest.approx(time.time(), abs=60)


async def test_turns_that_are_lost_together_are_one_failure(servers: LettaServers) -> None:
    server = servers.pick("u")
    guards = [server.guard(user) for user in USERS[:10]]
    lost = OutcomeUnknown(cause="connection_lost")
    for guard in guards:
        guard.__enter__()
    for guard in guards:
        guard.__exit__(OutcomeUnknown, lost, None)
    assert str(server.breaker.state) == "closed", "another process behind the address may serve"
    await fail(server, lost, times=1)
    assert str(server.breaker.state) == "open", "one that was sent later is lost, too"


def test_no_server_is_an_error() -> None:
    with pytest.raises(ValueError):
        LettaServers({})


async def test_close_reaches_every_port(servers: LettaServers) -> None:
    await servers.close()


async def test_turns_that_are_lost_together_knock_once(clock: Clock) -> None:
    letta = InMemoryLetta()
    letta.down = letta.refuses = True
    asked: list[None] = []
    health = letta.health

    async def counted() -> str:
        asked.append(None)
        return await health()

    letta.health = counted  # type: ignore[method-assign]
    server = LettaServer("http://a", letta, Breaker(clock=clock))
    assert await asyncio.gather(*(server.is_gone() for _ in range(5))) == [True] * 5
    assert len(asked) == 1
    assert server.gone_at == pytest.approx(time.time(), abs=60)
    letta.down = False
    assert not await server.is_gone()
    letta.down, letta.refuses = True, False
    assert not await server.is_gone(), "it does not answer, and may be at work"
