"""Sentinels that may want a password, and say why they are of no use."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.exceptions import AuthenticationError, ConnectionError, TimeoutError  # noqa: A004  # redis-py's names

from shared_utils.redis.address import RedisAddress


class SentinelFailure(ConnectionError):
    """No Sentinel answers; ``why`` is what one of them says."""

    def __init__(self, why: ConnectionError | TimeoutError) -> None:
        super().__init__(f"the Sentinels cannot be used: {why}")
        self.why = why


class Sentinels(Sentinel):
    """Asks them for the primary with their own password, or else with that of the servers they watch.

    Args:
        address: where they are, and the passwords.
        options: of the connections to them, by redis-py's names.
    """

    def __init__(self, address: RedisAddress, options: dict[str, Any]) -> None:
        own = {"username": address.sentinel_username, "password": address.sentinel_password}
        super().__init__(address.hosts, sentinel_kwargs={**options, **own})  # type: ignore[no-untyped-call]  # redis-py
        self._hosts = address.hosts
        # Not tried at first: a Sentinel without a password refuses every one.
        self._spare: dict[str, Any] | None = None
        if address.password and not address.sentinel_password:
            self._spare = {"username": address.username, "password": address.password}
        self._changing = asyncio.Lock()

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """See redis-py.

        Raises:
            MasterNotFoundError: they know none of this name that is up.
            SentinelFailure: none of them answers.
        """
        try:
            return await self._found(service_name)
        except MasterNotFoundError as error:
            why = await self._trouble()
            if why is None:
                raise
            if not isinstance(why, AuthenticationError) or not await self._log_in():
                raise SentinelFailure(why) from error
        return await self.discover_master(service_name)

    async def _found(self, service_name: str) -> tuple[str, int]:
        found: tuple[str, int] = await super().discover_master(service_name)
        return found

    async def _log_in(self) -> bool:
        """Use the servers' password from now on; False where that is vain."""
        asked = self.sentinels
        async with self._changing:
            if self.sentinels is not asked:
                return True  # another connection was quicker
            if self._spare is None:
                return False
            options = {**self.sentinel_kwargs, **self._spare}
            self.sentinels = [Redis(host=host, port=port, **options) for host, port in self._hosts]
            self._spare = None
        for sentinel in asked:
            await sentinel.aclose()
        return True

    async def _trouble(self) -> ConnectionError | TimeoutError | None:
        """Why no Sentinel answers; None where one does. Of their errors redis-py keeps the kinds alone."""
        errors: list[ConnectionError | TimeoutError] = []
        for sentinel in self.sentinels:
            try:
                await sentinel.ping()
            except (ConnectionError, TimeoutError) as error:
                errors.append(error)
            else:
                return None
        return next((error for error in errors if isinstance(error, AuthenticationError)), errors[0])
