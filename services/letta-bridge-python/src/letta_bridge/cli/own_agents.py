"""Ends a command whose settings name other agents than those that the queue's bridges use."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from letta_bridge.agents.operator_claim import require_own_agents
from letta_bridge.cli.common import Exit, fail, redis_client
from letta_bridge.cli.interruption import run_command
from letta_bridge.errors import TenantTaken
from letta_bridge.letta.factory import letta_client
from letta_bridge.settings import BridgeSettings
from shared_utils.errors import SettingsError
from shared_utils.redis.connection import CONNECTION_ERRORS

_REDIS_TIMEOUT_SECONDS: Final = 5.0
"""A command to Redis may take."""


def refuse_other_agents(settings: BridgeSettings, *, patience: float | None = None) -> None:
    """End the command if it would act on other agents than the queue's bridges use; unknown claims pass.

    Without Redis the claims are unknown; a command that needs Redis reports that itself.

    Args:
        settings: the command's.
        patience: seconds after which an unanswered request to Letta counts as an unknown claim, for a command that
            neither reads nor changes agents. None waits as long as any call to Letta may take: a slow Letta may still
            answer, and then the command would act on another installation's agents.
    """

    async def ask() -> None:
        letta = letta_client(settings.letta)
        try:
            # A timeout is an OSError, and so one of these.
            with contextlib.suppress(*CONNECTION_ERRORS):
                async with asyncio.timeout(patience), redis_client(settings, timeout=_REDIS_TIMEOUT_SECONDS) as client:
                    await require_own_agents(settings, client, letta)
        finally:
            await letta.close()

    try:
        run_command(ask())
    except (TenantTaken, SettingsError) as error:
        fail(str(error), Exit.USAGE)
