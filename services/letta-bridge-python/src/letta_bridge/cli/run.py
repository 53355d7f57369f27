"""``letta-bridge run``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer
import uvloop

from letta_bridge.cli.common import ConfigOption, Exit, fail, load_or_exit
from letta_bridge.settings import BridgeSettings, read_settings
from shared_utils.config.deprecations import log_deprecations
from shared_utils.config.secret_values import secrets_of
from shared_utils.errors import SettingsError
from shared_utils.observability import logs

_log = logs.get(__name__)


def run(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address of the HTTP port.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 picks a free one.")] = None,
) -> None:
    """Run the bridge until SIGTERM or Ctrl-C.

    It starts even if Redis, Letta or memory-python is unavailable, reports what is missing, and uses each when it
    becomes available. On SIGHUP it reloads its settings. On SIGTERM it takes no more tasks, finishes its turns within
    queue.shutdown_grace_seconds, and returns the rest to the queue.
    """
    flags = {"bridge.host": host, "bridge.port": port}
    loaded = load_or_exit(config, flags)
    settings = loaded.settings
    logs.configure(settings.logs, "letta-bridge", secrets=secrets_of(settings))
    log_deprecations(loaded.deprecated, _log)

    def read_again() -> BridgeSettings:
        # A file that existed at the start is required on SIGHUP; otherwise its limits would be dropped.
        now = read_settings(loaded.config or config, flags=flags)
        log_deprecations(now.deprecated, _log)
        return now.settings

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, read_again))
    except SettingsError as error:
        fail(str(error), Exit.USAGE)
    except OSError as error:
        address = f"{settings.bridge.host}:{settings.bridge.port}"
        fail(f"cannot listen on {address} ({error.strerror}); choose another BRIDGE_HTTP_PORT", Exit.USAGE)


async def _serve(settings: BridgeSettings, read_again: Callable[[], BridgeSettings]) -> None:
    # Imported here: it brings Letta's SDK along, which --help need not wait for.
    from letta_bridge.bridge import Bridge  # noqa: PLC0415

    await Bridge(settings, read_again).run()
