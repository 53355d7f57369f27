"""taskiq over a Redis stream."""

from __future__ import annotations

from taskiq_redis import RedisStreamBroker

from bridge_bench.worker_side.tasks import REDIS_URL

from application import application

broker, producer = application(RedisStreamBroker(REDIS_URL, max_connection_pool_size=64, consumer_id="0"))
