"""``python -m bridge_chaos.letta_double --port 0 --file letta.db`` prints ``ready http://127.0.0.1:PORT``."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from bridge_chaos.letta_double.server import Server
from bridge_chaos.letta_double.store import LettaStore
from bridge_chaos.letta_double.turns import Pace
from bridge_chaos.serving import serve


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--file", type=Path, required=True, help="what it remembers")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds a step takes")
    parser.add_argument("--run-lag", type=float, default=0.02, help="seconds until a turn's run is listed")
    args = parser.parse_args()
    server = Server(LettaStore(args.file), Pace(args.latency, args.run_lag))
    asyncio.run(serve(server.app(), args.port))


if __name__ == "__main__":
    main()
