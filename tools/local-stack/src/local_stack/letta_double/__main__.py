"""``python -m local_stack.letta_double --port 0 --file letta.db`` prints ``ready http://127.0.0.1:PORT``."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from local_stack.letta_double.server import Server
from local_stack.letta_double.store import LettaStore
from local_stack.letta_double.turns import Pace
from local_stack.serving import serve


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--file", type=Path, help="what it remembers; without one it forgets all when it ends")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds a step takes")
    parser.add_argument("--run-lag", type=float, default=0.02, help="seconds until a turn's run is listed")
    parser.add_argument("--gather", type=int, default=1, help="answer no turn until so many are at work")
    args = parser.parse_args()
    server = Server(LettaStore(args.file), Pace(args.latency, args.run_lag, args.gather))
    asyncio.run(serve(server.app(), args.port))


if __name__ == "__main__":
    main()
