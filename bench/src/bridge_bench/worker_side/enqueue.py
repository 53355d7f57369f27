"""Enqueues tasks for a worker, in that worker's environment and with its client.

``python -m bridge_bench.worker_side.enqueue --module peer --count 100``. The module offers ``producer()``, an async
context manager that gives a function for a batch of payloads. With ``--rate`` tasks come one by one, evenly spaced, and
the moments at which each was pushed are printed as JSON: ``{"t-0": seconds, ...}`` on the monotonic clock, which all
processes of a machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

from bridge_bench.worker_side.tasks import payload, payloads

_Push = Callable[[Sequence[str]], Awaitable[None]]


async def _enqueue(args: argparse.Namespace) -> None:
    module = importlib.import_module(args.module)
    async with module.producer() as push:
        if args.rate:
            json.dump(await _paced(push, args), sys.stdout)
            return
        for batch in payloads(args.first, args.count, args.users, args.prefix):
            await push(batch)


async def _paced(push: _Push, args: argparse.Namespace) -> dict[str, float]:
    pushed = {}
    began = time.monotonic()
    for index in range(args.count):
        await asyncio.sleep(began + index / args.rate - time.monotonic())
        task = payload(args.first + index, args.users, args.prefix)
        pushed[f"{args.prefix}-{args.first + index}"] = time.monotonic()
        await push([task])
    return pushed


def main() -> None:
    """Enqueue and end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module", required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--prefix", default="t")
    parser.add_argument("--rate", type=float, default=0.0, help="tasks a second; 0: as fast as it goes")
    asyncio.run(_enqueue(parser.parse_args()))


if __name__ == "__main__":
    main()
