"""``letta-bridge run``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer
import uvloop

from letta_bridge.cli.common import ConfigOption, Exit, fail, load_or_exit
from letta_bridge.settings import BridgeSettings, read_settings
from shared_utils.config.secret_values import secrets_of
from shared_utils.errors import SettingsError
from shared_utils.observability import logs


def run(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address of the HTTP port.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 takes a free one.")] = None,
) -> None:
    """Run the bridge until SIGTERM or Ctrl-C.

    It starts whether or not Redis, Letta and memory-python are up, says what is missing, and picks them up when they
    come. On SIGHUP it reads its settings again. On SIGTERM it takes nothing more, ends what it has begun within
    queue.shutdown_grace, and gives back the rest.
    """
    flags = {"bridge.host": host, "bridge.port": port}
    loaded = load_or_exit(config, flags)
    settings = loaded.settings
    logs.configure(settings.logs, "letta-bridge", secrets=secrets_of(settings))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            # A file that was there at the start is as good as named: without it, SIGHUP would drop every limit in it.
            runner.run(_serve(settings, lambda: read_settings(loaded.config or config, flags=flags).settings))
    except SettingsError as error:
        fail(str(error), Exit.USAGE)
    except OSError as error:
        address = f"{settings.bridge.host}:{settings.bridge.port}"
        fail(f"cannot listen on {address} ({error.strerror}); choose another BRIDGE_HTTP_PORT", Exit.FAILED)


async def _serve(settings: BridgeSettings, read_again: Callable[[], BridgeSettings]) -> None:
    # Imported here: it brings Letta's SDK along, which --help need not wait for.
    from letta_bridge.bridge import Bridge  # noqa: PLC0415

    await Bridge(settings, read_again).run()
