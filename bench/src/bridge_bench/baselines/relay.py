"""A handwritten relay of Letta's streams with redis-py, aiohttp and uvloop: without any guarantees.

A task is taken from the list and forgotten there, its turn is POSTed as a stream, the text is cut behind every end
mark, and each part is added to the task's Redis stream and published. Thoughts and Markdown are passed on, an
abbreviation is the end of a sentence, and a connection that breaks ends the reply without a word.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any, Final, cast

import aiohttp
import uvloop
from redis.asyncio import Redis

from bridge_bench.worker_side.tasks import CONCURRENCY, LETTA_URL, REDIS_URL, REQUESTS, turn_path

_END_MARKS: Final = tuple(".!?。！？…\n")
_DATA: Final = b"data: "
_DONE: Final = b"[DONE]"
_KEPT_SECONDS: Final = 900


class _Relay:
    def __init__(self, letta: aiohttp.ClientSession) -> None:
        self._letta = letta
        self._redis = Redis.from_url(REDIS_URL, max_connections=CONCURRENCY + 8)
        self._room = asyncio.Semaphore(CONCURRENCY)
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        while True:
            await self._room.acquire()
            popped = None
            while popped is None:
                popped = await cast("Awaitable[tuple[bytes, bytes] | None]", self._redis.brpop([REQUESTS], 1))
            task = asyncio.create_task(self._relay(json.loads(popped[1])))
            self._running.add(task)
            task.add_done_callback(self._left)

    async def _relay(self, task: dict[str, Any]) -> None:
        message = {"role": "user", "content": task["content"], "otid": task["task_id"]}
        turn = {"messages": [message], "streaming": True, "stream_tokens": True}
        body = json.dumps(turn, separators=(",", ":"))
        parts: list[str] = []
        held = ""
        async with self._letta.post(turn_path(task), data=body) as response:
            async for line in response.content:
                if not line.startswith(_DATA) or line[len(_DATA) :].startswith(_DONE):
                    continue
                event = json.loads(line[len(_DATA) :])
                if event["message_type"] == "assistant_message":
                    held += event["content"]
                    if held.endswith(_END_MARKS):
                        await self._publish(task, len(parts), "sentence", held)
                        parts.append(held)
                        held = ""
        if held:
            await self._publish(task, len(parts), "sentence", held)
            parts.append(held)
        await self._publish(task, len(parts), "end", "".join(parts))

    async def _publish(self, task: dict[str, Any], number: int, kind: str, text: str) -> None:
        ids = {"task_id": task["task_id"], "user_id": task["user_id"]}
        event = json.dumps({**ids, "seq": number, "type": kind, "text": text})
        key = f"{REQUESTS}:stream:{task['user_id']}:{task['task_id']}"
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xadd(key, {"event": event})
        pipeline.expire(key, _KEPT_SECONDS)
        pipeline.publish(f"task_stream:{task['task_id']}", event)
        await pipeline.execute()

    def _left(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._room.release()
        task.result()


async def _serve() -> None:
    headers = {"Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(LETTA_URL, connector=connector, headers=headers, timeout=timeout) as letta:
        await _Relay(letta).run()


if __name__ == "__main__":
    uvloop.run(_serve())
