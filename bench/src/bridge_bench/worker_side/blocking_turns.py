"""The task's work for threaded workers: urllib3 and redis-py, which every such environment has."""

from __future__ import annotations

import json

import redis
import urllib3

from bridge_bench.worker_side.tasks import CONCURRENCY, LETTA_URL, REDIS_URL, RESPONSES, reply, turn_body, turn_path

_http = urllib3.PoolManager(maxsize=CONCURRENCY, headers={"Content-Type": "application/json"}, retries=False)
_redis = redis.Redis.from_url(REDIS_URL)


def work(payload: str | bytes) -> None:
    """One task, from its JSON to the published reply."""
    task = json.loads(payload)
    answer = _http.request("POST", LETTA_URL + turn_path(task), body=turn_body(task)).data
    _redis.publish(RESPONSES, reply(task, answer))
