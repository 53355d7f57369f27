"""``python -m bridge_chaos.letta_double --port 0 --file letta.db`` prints ``ready http://127.0.0.1:PORT``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from aiohttp import web

from bridge_chaos.letta_double.server import Server
from bridge_chaos.letta_double.store import LettaStore
from bridge_chaos.letta_double.turns import Pace
from local_stack.ports import HOST


async def _serve(port: int, store: LettaStore, pace: Pace) -> None:
    runner = web.AppRunner(Server(store, pace).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port, backlog=4096).start()
    address = runner.addresses[0]
    sys.stdout.write(f"ready http://{address[0]}:{address[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--file", type=Path, required=True, help="what it remembers")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds a step takes")
    parser.add_argument("--run-lag", type=float, default=0.02, help="seconds until a turn's run is listed")
    args = parser.parse_args()
    asyncio.run(_serve(args.port, LettaStore(args.file), Pace(args.latency, args.run_lag)))


if __name__ == "__main__":
    main()
