"""taskiq over a Redis list."""

from __future__ import annotations

from taskiq_redis import ListQueueBroker

from bridge_bench.worker_side.tasks import REDIS_URL

from application import application

broker, producer = application(ListQueueBroker(REDIS_URL, max_connection_pool_size=64))
