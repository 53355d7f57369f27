"""Redis under test, in one of three topologies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from redis import Redis, RedisCluster
from redis.sentinel import Sentinel as SentinelClient

from bridge_chaos.topology import Topology
from bridge_chaos.waiting import revive, wait_until
from local_stack.errors import StartFailed
from local_stack.ports import HOST, free_port
from local_stack.processes import Process
from local_stack.proxy import TcpProxy
from local_stack.valkey import Sentinel, Valkey

_P = TypeVar("_P", bound=Process)
_JOIN_SECONDS: Final = 60.0


class RedisServers:
    """The servers of one environment.

    Args:
        folder: for their data.
        topology: which of them there are.
        held: ends them with the environment.
    """

    replica: Valkey | None = None
    second: Valkey | None = None
    """The Cluster's other primary."""
    sentinel: Sentinel | None = None
    link: TcpProxy | None = None
    """Between a single server and everybody else."""

    def __init__(self, folder: Path, topology: Topology, held: ExitStack) -> None:
        self._topology = topology
        self._held = held
        options = dict(topology.redis_options) | self._cluster_options
        if topology.redis == "sentinel":
            # A primary otherwise waits for five seconds whether more than one replica wants its data.
            options["repl-diskless-sync-delay"] = "0"
        self.first = self._add(Valkey(folder / "valkey", options=options, durable=topology.append_only))
        if topology.redis == "cluster":
            self.second = self._add(Valkey(folder / "second", options=self._cluster_options, name="second"))
        if topology.redis == "sentinel":
            follow = options | {"replicaof": f"{HOST} {self.first.port}"}
            self.replica = self._add(Valkey(folder / "replica", options=follow, name="replica"))
        revive(*self._servers)
        if topology.redis == "sentinel":
            self.sentinel = self._add(Sentinel(folder / "sentinel", self.first))
            revive(self.sentinel)
        if self.second is not None:
            self._join(self.second)
        if topology.redis == "single":
            self.link = held.enter_context(TcpProxy(self.first.url))

    @property
    def url(self) -> str:
        """The address that services use."""
        if self.sentinel is not None:
            return self.sentinel.url
        return self.link.url if self.link else f"redis+cluster://{HOST}:{self.first.port}"

    @property
    def primary(self) -> Valkey:
        """The server that takes writes now: of a Sentinel's two the one it names, else the first."""
        if self.sentinel is None:
            return self.first
        _, port = self._watcher().discover_master("bridge")
        return next(server for server in self._servers if server.port == port)

    def client(self) -> Redis:
        """A client of the primary that bypasses the proxy; the caller closes it."""
        if self.sentinel is not None:
            client: Redis = self._watcher().master_for("bridge", socket_timeout=5)
            return client
        if self.second is not None:
            return cast("Redis", RedisCluster(host=HOST, port=self.first.port, socket_timeout=5))
        return Redis(host=HOST, port=self.first.port, socket_timeout=5)

    def heal(self) -> None:
        """Start what is down, let bytes pass, and wait until a replica has caught up.

        Raises:
            StartFailed: the replica does not.
        """
        if self.link is not None:
            self.link.resume()
        revive(*self._servers, *([self.sentinel] if self.sentinel else []))
        if self.sentinel is not None and not wait_until(self._in_step, _JOIN_SECONDS, pause=0.1):
            raise StartFailed(f"no replica has caught up with its primary within {_JOIN_SECONDS:g} s")

    @property
    def _servers(self) -> list[Valkey]:
        return [server for server in (self.first, self.replica, self.second) if server is not None]

    @property
    def _cluster_options(self) -> dict[str, str]:
        if self._topology.redis != "cluster":
            return {}
        # The cluster's own port is the server's plus 10 000 where nobody says otherwise, which may be too high.
        return {"cluster-enabled": "yes", "cluster-port": str(free_port())}

    def _watcher(self) -> Any:
        port = self.sentinel.port if self.sentinel else 0
        return SentinelClient([(HOST, port)], socket_timeout=2)  # type: ignore[no-untyped-call]  # redis-py's own

    def _in_step(self) -> bool:
        """Whether the other server replicates the primary; one that restarted as a primary is made a replica."""
        primary = self.primary
        for server in self._servers:
            if server is primary:
                continue
            with Redis(host=HOST, port=server.port, socket_timeout=5, decode_responses=True) as client:
                state: Any = client.info("replication")
                if state["role"] == "master" or int(state["master_port"]) != primary.port:
                    client.replicaof(HOST, primary.port)
                    return False
                if state["master_link_status"] != "up":
                    return False
        return True

    def _join(self, second: Valkey) -> None:
        with Redis(host=HOST, port=self.first.port) as one, Redis(host=HOST, port=second.port) as two:
            one.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            bus: Any = two.config_get("cluster-port")
            one.execute_command("CLUSTER", "MEET", HOST, second.port, bus["cluster-port"])
            for node in (one, two):
                wait_until(_joined(node), _JOIN_SECONDS)

    def _add(self, process: _P) -> _P:
        self._held.callback(process.kill)
        return process


def _joined(node: Any) -> Callable[[], bool]:
    def joined() -> bool:
        info: Mapping[str, str] = node.execute_command("CLUSTER INFO")
        return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", "2")

    return joined
