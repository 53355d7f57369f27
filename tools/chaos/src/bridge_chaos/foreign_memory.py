"""A foreign memory-python with its chat AI, which uses the surrounding stack's names and ignores the bridge's.

``python -m bridge_chaos.foreign_memory --redis URL`` takes tasks from `user_input_queue`, remembers them, answers one
after the other on `ai_responses` and `task_response:{task_id}`, and prints ``ready`` once it has reached Redis.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import redis

from local_stack.processes import Process
from local_stack.programs import environment

_THINKING_SECONDS: Final = 0.3
_MAX_REMEMBERED_TASKS: Final = 100
_REDIS_ERRORS: Final = (redis.RedisError, OSError)


class ForeignMemory(Process):
    """It as a process.

    Args:
        logs: directory of its log file.
        redis_url: the stack's Redis, a single server.
    """

    def __init__(self, *, logs: Path, redis_url: str) -> None:
        command = [sys.executable, "-m", "bridge_chaos.foreign_memory", "--redis", redis_url]
        super().__init__(
            "foreign-memory", command, logs=logs, environment=environment(), ready=lambda: "ready" in self.log_tail()
        )


def serve(url: str) -> None:
    """Until killed."""
    client: Any = redis.Redis.from_url(url, socket_timeout=10)
    while True:
        try:
            taken = client.brpop("user_input_queue", 1)
            if taken is not None:
                _answer(client, json.loads(taken[1]))
        except _REDIS_ERRORS:
            time.sleep(_THINKING_SECONDS)


def _answer(client: Any, task: dict[str, Any]) -> None:
    task_id, user = task["task_id"], task.get("user_id", "anonymous")
    key = f"memory:user_sessions:{user}"
    _remember(client, key, {"user_id": user, "content": task["content"], "source": "user", "task_id": task_id})
    time.sleep(_THINKING_SECONDS)
    answer = f"I heard you, {user}: {task['content']}"
    _remember(client, key, {"user_id": user, "content": answer, "source": "ai"})
    said = {"user_id": user, "text": answer, "original_message_id": task_id, "timestamp": time.time()}
    client.publish("ai_responses", json.dumps(said))
    client.publish(f"task_response:{task_id}", json.dumps({"text": answer, "source": "chat_ai"}))


def _remember(client: Any, key: str, record: dict[str, Any]) -> None:
    client.lpush(key, json.dumps(record))
    client.ltrim(key, 0, _MAX_REMEMBERED_TASKS - 1)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", required=True)
    url = parser.parse_args().redis
    with redis.Redis.from_url(url) as client:
        client.ping()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    serve(url)


if __name__ == "__main__":
    main()
