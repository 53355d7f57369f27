from __future__ import annotations

import pytest

from letta_bridge.letta.breaker import Breaker, BreakerPolicy, BreakerState, Permit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    policy = BreakerPolicy(failures=3, pause=5.0, longest_pause=30.0, jitter=0.2)
    return Breaker(policy, clock=clock, jitter=lambda: 0.0)


def entered(breaker: Breaker) -> Permit:
    permit = breaker.enter()
    assert permit is not None
    return permit


def broken(breaker: Breaker) -> None:
    while breaker.state is BreakerState.CLOSED:
        entered(breaker).failed()


def test_opens_after_failures_in_a_row(breaker: Breaker) -> None:
    for _ in range(2):
        entered(breaker).failed()
    entered(breaker).succeeded()
    for _ in range(2):
        entered(breaker).failed()
    assert str(breaker.state) == "closed"
    entered(breaker).failed()
    assert str(breaker.state) == "open"
    assert breaker.enter() is None
    assert breaker.ready_in == 5.0


def test_a_light_failure_counts_less(breaker: Breaker) -> None:
    for _ in range(11):
        entered(breaker).failed(0.25)
    assert str(breaker.state) == "closed"
    entered(breaker).failed(0.25)
    assert str(breaker.state) == "open"


def test_a_half_open_breaker_admits_one_turn(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    clock.now += 5.0
    assert str(breaker.state) == "half_open"
    trial = entered(breaker)
    assert breaker.enter() is None
    assert not breaker.ready
    trial.succeeded()
    assert str(breaker.state) == "closed"
    entered(breaker)
    entered(breaker)


def test_failures_of_one_user_do_not_open_it_while_the_server_answers(breaker: Breaker) -> None:
    for _ in range(20):
        permit = breaker.enter("mallory")
        assert permit is not None
        permit.failed()
        breaker.answered()
    assert str(breaker.state) == "closed"


def test_failures_of_several_users_open_it_although_the_server_answers(breaker: Breaker) -> None:
    for user in ("ada", "bob", "eve"):
        assert str(breaker.state) == "closed"
        permit = breaker.enter(user)
        assert permit is not None
        permit.failed()
        breaker.answered()
    assert str(breaker.state) == "open"


def test_a_server_that_answers_nothing_is_opened_by_one_user(breaker: Breaker) -> None:
    breaker.answered()
    for _ in range(3):
        permit = breaker.enter("ada")
        assert permit is not None
        permit.failed()
    assert str(breaker.state) == "open"


def test_a_success_forgets_every_users_failures(breaker: Breaker) -> None:
    for user in ("ada", "bob", "eve", "mallory") * 5:
        for outcome in ("failed", "succeeded"):
            permit = breaker.enter(user)
            assert permit is not None
            getattr(permit, outcome)()
            breaker.answered()
    assert str(breaker.state) == "closed"


def test_slow_trial_turn_does_not_block_further_trials(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    clock.now += 5.0
    slow = entered(breaker)
    clock.now += 14.0
    assert breaker.enter() is None
    clock.now += 1.0
    entered(breaker).succeeded()
    assert str(breaker.state) == "closed"
    slow.failed()
    assert str(breaker.state) == "closed"


def test_a_cancelled_try_frees_its_place(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    clock.now += 5.0
    entered(breaker).released()
    assert str(breaker.state) == "half_open"
    entered(breaker).succeeded()
    assert str(breaker.state) == "closed"


def test_pauses_double_up_to_the_longest_and_start_over(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    pauses = []
    for _ in range(5):
        pauses.append(breaker.ready_in)
        clock.now += breaker.ready_in
        entered(breaker).failed()
    assert pauses == [5.0, 10.0, 20.0, 30.0, 30.0]
    clock.now += breaker.ready_in
    entered(breaker).succeeded()
    broken(breaker)
    assert breaker.ready_in == 5.0


def test_a_thousand_pauses_do_not_overflow(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    for _ in range(2000):
        clock.now += breaker.ready_in
        entered(breaker).failed()
    assert breaker.ready_in == 30.0


def test_jitter_lengthens_a_pause(clock: Clock) -> None:
    breaker = Breaker(BreakerPolicy(failures=1, pause=10.0, jitter=0.2), clock=clock, jitter=lambda: 0.5)
    broken(breaker)
    assert breaker.ready_in == pytest.approx(11.0)


def test_outcomes_of_turns_from_an_older_era_are_ignored(breaker: Breaker, clock: Clock) -> None:
    early = [entered(breaker) for _ in range(4)]
    broken(breaker)
    early[0].succeeded()
    assert str(breaker.state) == "open"
    early[1].failed()
    assert breaker.ready_in == 5.0
    clock.now += 5.0
    trial = entered(breaker)
    early[2].released()
    assert breaker.enter() is None, "an old turn freed the place of the one that tries"
    trial.succeeded()
    early[3].failed()
    assert str(breaker.state) == "closed"


def test_a_permit_counts_once(breaker: Breaker) -> None:
    permit = entered(breaker)
    for _ in range(5):
        permit.failed()
    assert str(breaker.state) == "closed"
