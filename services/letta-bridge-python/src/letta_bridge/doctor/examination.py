"""The whole examination: which checks there are, and in which order."""

from __future__ import annotations

from collections.abc import AsyncIterator

from letta_bridge.doctor import data_dir, database, letta_server, opt_ins, redis_rights, redis_server, work
from letta_bridge.doctor.findings import Finding, Level, fail
from letta_bridge.settings import BridgeSettings
from shared_utils.errors import SettingsError
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient, close, connect
from shared_utils.redis.failures import explain

_REDIS_TIMEOUT_SECONDS = 5.0


async def examine(settings: BridgeSettings, *, deep: bool = False) -> AsyncIterator[Finding]:
    """Every finding as it is made; a failed check does not stop the others.

    Args:
        settings: the bridge's.
        deep: also make a scratch agent in each Letta server, let it answer once, and delete it.
    """
    parts = {"redis": _redis(settings)}
    parts |= {f"letta {url}": letta_server.examine(settings, url, deep=deep) for url in settings.letta.api_urls}
    parts["database"] = database.examine(settings)
    parts["disk"] = data_dir.examine(settings)
    for subject, part in parts.items():
        try:
            async for finding in part:
                yield finding
        except Exception as error:  # noqa: BLE001  # one check that breaks must not hide what the others find
            yield fail(subject, f"could not be checked ({type(error).__name__}: {error})", "correct its settings")


async def _redis(settings: BridgeSettings) -> AsyncIterator[Finding]:
    try:
        client = connect(settings.redis, name="letta-bridge-doctor", timeout=_REDIS_TIMEOUT_SECONDS)
    except SettingsError as error:
        yield fail("redis", str(error), "correct it in the environment or config.json")
        return
    try:
        reached = await redis_server.reach(client)
        yield reached
        if reached.level is Level.FAIL:
            return
        async for finding in _with_redis(client, settings):
            yield finding
    finally:
        await close(client)


async def _with_redis(client: RedisClient, settings: BridgeSettings) -> AsyncIterator[Finding]:
    for check in (redis_server.examine, redis_rights.examine, opt_ins.examine, work.examine):
        try:
            async for finding in check(client, settings):
                yield finding
        except CONNECTION_ERRORS as error:
            yield fail("redis", explain(error), "correct that and run doctor again")
