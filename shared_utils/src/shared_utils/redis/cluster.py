"""A client of a Cluster of which some nodes are down.

redis-py discovers the nodes again only if it may retry commands, which this project disables. This client does so
before the next command after any failure.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio.cluster import ClusterPipeline, RedisCluster
from redis.cluster import PRIMARY
from redis.exceptions import ConnectionError, TimeoutError  # noqa: A004  # redis-py's names


class Cluster(RedisCluster):
    """See the module."""

    async def initialize(self, *args: Any, **options: Any) -> RedisCluster:
        """See redis-py, which learns the commands from the first primary, and where that is down asks no other."""
        failed: set[str] = set()
        while True:
            try:
                return await super().initialize(*args, **options)
            except (ConnectionError, TimeoutError):
                first = next(iter(self.nodes_manager.get_nodes_by_server_type(PRIMARY)), None)
                if first is None or first.name in failed:
                    raise
                failed.add(first.name)
                self.nodes_manager.move_node_to_end_of_cached_nodes(first.name)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """See redis-py, which sends a command that comes before the nodes are known to any of them."""
        if self._initialize:
            await self.initialize()
        return await super().execute_command(*args, **options)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:  # noqa: ARG002  # its name
        """See redis-py. Its commands of several keys, EXISTS and DEL among them, are pipelines, too."""
        return _Pipeline(self, transaction)  # type: ignore[abstract]  # redis-py's own is one


class _Pipeline(ClusterPipeline):
    async def execute(self, *args: Any, **options: Any) -> list[Any]:
        """See redis-py."""
        try:
            return await super().execute(*args, **options)
        except RedisCluster.ERRORS_ALLOW_RETRY:
            self.cluster_client._initialize = True  # noqa: SLF001  # redis-py sets it so itself
            raise
