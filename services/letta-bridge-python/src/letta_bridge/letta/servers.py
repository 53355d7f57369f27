"""Chooses among several Letta servers over one database, with a circuit breaker for each server and each user.

If only one user's turns keep failing on a working server, only that user's breaker opens.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Final

from letta_bridge.errors import (
    BreakerOpen,
    EarlierTurnRunning,
    LettaError,
    LettaUnavailable,
    OutcomeUnknown,
    OutOfResources,
    TurnInterrupted,
    UserPaused,
)
from letta_bridge.letta.breaker import Breaker, BreakerState, Permit
from letta_bridge.letta.port import LettaPort
from shared_utils.contracts.messages import now
from shared_utils.exhaustion import is_exhaustion

_UNAVAILABILITY_CAUSES = frozenset({"timeout", "connection_lost", "server_error"})
_SAYS_NOTHING: Final = (EarlierTurnRunning, TurnInterrupted)
"""Errors of turns that were not sent, or not this time."""
_RATE_LIMIT_WEIGHT = 0.25
"""A rate limit means a busy model, not a broken Letta; only a series of them opens the breaker."""
_KNOCK_SECONDS: Final = 2.0
"""How long a server may take to accept a connection after one was lost."""
_MAX_REMEMBERED_USERS: Final = 10_000
"""Users whose failures are remembered, those of the latest failures."""


class LettaServer:
    """One Letta server and its breaker."""

    def __init__(self, name: str, port: LettaPort, breaker: Breaker, users: UserBreakers | None = None) -> None:
        self.name = name
        """Its base URL, without credentials; what logs and health call it."""
        self.port = port
        self.breaker = breaker
        self.gone_at = 0.0
        """When this bridge last found the port closed, seconds since 1970; 0 for never."""
        self.losses = 0
        """How often connections were lost; those of turns that were under way at the same time count once."""
        self._users = users
        self._knock: asyncio.Task[bool] | None = None

    def guard(self, user: str = "") -> Guard:
        """Send one turn of a user under the breaker, which records the outcome of the block."""
        return Guard(self, user)

    def learn(self, user: str, error: LettaError, permit: Permit, losses: int) -> None:
        """Count a failed turn for or against the server and its user; ``losses`` were known when it was sent."""
        weight = failure_weight(error)
        lost = isinstance(error, OutcomeUnknown) and error.cause == "connection_lost"
        if isinstance(error, LettaUnavailable) and error.refused:
            self.gone_at = now()
        if lost and losses < self.losses:
            # The same event: one process of several was killed, or a proxy was restarted, and others may serve.
            permit.released()
        elif weight:
            permit.failed(weight)
        else:
            permit.succeeded()
        if lost and losses == self.losses:
            self.losses += 1
        if self._users is not None:
            self._users.learn(user, error, weight, server_is_open=self.breaker.state is not BreakerState.CLOSED)

    def served(self, user: str, permit: Permit) -> None:
        """Count an answered turn for the server and its user."""
        permit.succeeded()
        if self._users is not None:
            self._users.forget(user)

    async def is_gone(self) -> bool:
        """Whether the server's port is closed now; checked as soon as a connection was lost.

        Without this check, a server that restarts during the breaker's pause would never be seen gone, and runs that it
        left behind would seem active. Turns that lose their connections together share one request.
        """
        if self._knock is None:
            self._knock = asyncio.create_task(self._knocked())
            self._knock.add_done_callback(self._heard)
        return await asyncio.shield(self._knock)

    async def _knocked(self) -> bool:
        try:
            async with asyncio.timeout(_KNOCK_SECONDS):
                await self.port.health()
        except LettaUnavailable as error:
            if error.refused:
                self.gone_at = now()
            return error.refused
        except (LettaError, TimeoutError):
            pass
        return False

    def _heard(self, _knock: asyncio.Task[bool]) -> None:
        self._knock = None

    def answered(self) -> None:
        """The server answered a request about a turn, so it is not down."""
        self.breaker.answered()


class Guard:
    """A block in which one turn is sent to a server under its breaker. A class, which costs half of a generator.

    Raises:
        BreakerOpen: at entry, if the breaker is open or another trial turn is running.
        OutOfResources: this host lacks the resources for a request.
    """

    __slots__ = ("_losses", "_permit", "_server", "_user")

    def __init__(self, server: LettaServer, user: str) -> None:
        self._server = server
        self._user = user

    def __enter__(self) -> LettaPort:
        server = self._server
        permit = server.breaker.enter(self._user)
        if permit is None:
            raise BreakerOpen(f"Letta at {server.name} failed several times in a row; its circuit breaker is open.")
        self._permit = permit
        self._losses = server.losses
        return server.port

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> None:
        if error is None:
            self._server.served(self._user, self._permit)
            return
        try:
            if isinstance(error, LettaError) and not isinstance(error, _SAYS_NOTHING):
                if is_exhaustion(error):
                    raise OutOfResources from error  # the error does not concern Letta
                self._server.learn(self._user, error, self._permit, self._losses)
        finally:
            self._permit.released()  # for a cancelled or failed turn; no effect after an outcome


class UserBreakers:
    """The breakers of users whose own turns fail; each lasts until a turn succeeds or the bridge stops."""

    def __init__(self, breaker: Callable[[], Breaker]) -> None:
        self._new = breaker
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()

    @property
    def paused(self) -> int:
        """How many users are paused now."""
        return sum(breaker.state is BreakerState.OPEN for breaker in self._breakers.values())

    def admit(self, user: str) -> None:
        """Raises UserPaused while this user's turns are paused."""
        breaker = self._breakers.get(user)
        if breaker is not None and not breaker.ready:
            raise UserPaused(ready_in=breaker.ready_in)

    def learn(self, user: str, error: LettaError, weight: float, *, server_is_open: bool) -> None:
        """A turn of the user failed. Failures of a server that is down do not count for the user."""
        if server_is_open:
            self._breakers.clear()
        elif not weight:
            self.forget(user)
        elif isinstance(error, OutcomeUnknown):
            breaker = self._breakers.setdefault(user, self._new())
            self._breakers.move_to_end(user)
            while len(self._breakers) > _MAX_REMEMBERED_USERS:
                self._breakers.popitem(last=False)
            if (permit := breaker.enter(user)) is not None:
                permit.failed(weight)

    def forget(self, user: str) -> None:
        """A turn of the user succeeded."""
        self._breakers.pop(user, None)


class LettaServers:
    """All Letta servers. They share one database, so any of them can serve any user.

    A user stays on one server while it is healthy (rendezvous hashing); when its breaker opens, only its users move.
    """

    def __init__(self, ports: Mapping[str, LettaPort], *, breaker: Callable[[], Breaker] = Breaker) -> None:
        """``ports`` by the server's name; every server, and every user who needs one, gets a ``breaker`` of its own."""
        if not ports:
            raise ValueError("there must be at least one Letta server")
        self.users = UserBreakers(breaker)
        self._servers = tuple(LettaServer(name, port, breaker(), self.users) for name, port in ports.items())

    def __iter__(self) -> Iterator[LettaServer]:
        return iter(self._servers)

    def pick(self, user_key: str) -> LettaServer:
        """The server for this user's next turn.

        Raises:
            UserPaused: this user's turns are paused.
            BreakerOpen: the breakers of all servers are open.
        """
        self.users.admit(user_key)
        ready = [server for server in self._servers if server.breaker.ready]
        if not ready:
            raise BreakerOpen(
                f"The circuit breakers of all Letta servers are open; the next attempt is in {self.ready_in():.1f} "
                "seconds."
            )
        if len(ready) == 1:
            return ready[0]
        return max(ready, key=lambda server: _score(server.name, user_key))

    def available(self) -> bool:
        """Whether a turn could be sent now; False tells the intake to stop."""
        return any(server.breaker.ready for server in self._servers)

    def ready_in(self) -> float:
        """Seconds until the first server may be tried."""
        return min(server.breaker.ready_in for server in self._servers)

    def gone_at(self) -> float:
        """The time since which every server has been seen gone at least once; runs that began before are dead."""
        return min(server.gone_at for server in self._servers)

    def states(self) -> dict[str, BreakerState]:
        """The state of each server's breaker, by the server's name."""
        return {server.name: server.breaker.state for server in self._servers}

    async def close(self) -> None:
        """Give back every server's connections."""
        for server in self._servers:
            await server.port.close()


def failure_weight(error: LettaError) -> float:
    """How strongly an error indicates that the server is unavailable: 0 not at all, 1 fully."""
    if isinstance(error, LettaUnavailable):
        return 0.0 if error.busy else 1.0
    if isinstance(error, OutcomeUnknown):
        if error.cause == "rate_limited":
            return _RATE_LIMIT_WEIGHT
        return 1.0 if error.cause in _UNAVAILABILITY_CAUSES else 0.0
    return 0.0


def _score(server: str, user_key: str) -> bytes:
    return hashlib.blake2b(f"{server}\0{user_key}".encode(errors="surrogatepass"), digest_size=8).digest()
