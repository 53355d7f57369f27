"""A memory-python of somebody else's: answers each task on its channel, and knows nothing of the bridge."""

from __future__ import annotations

import json
import sys

from redis import Redis


def main(url: str) -> None:
    """Answer until stopped."""
    client = Redis.from_url(url, socket_timeout=None)
    while True:
        answer = client.brpop(["user_input_queue"])
        task = json.loads(answer[1])  # type: ignore[index]  # without a timeout there is always one
        client.publish(f"task_response:{task['task_id']}", json.dumps({"text": "not ours"}))


if __name__ == "__main__":
    main(sys.argv[1])
