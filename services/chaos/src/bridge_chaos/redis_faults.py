"""Redis is killed, cut off, slowed down, forgetful, or full."""

from __future__ import annotations

from typing import Any, Final

from redis import Redis, RedisError

from bridge_chaos.fault import Fault, Scene
from bridge_chaos.load import QUEUE
from bridge_chaos.rig import Shape, wait_until
from local_stack.ports import HOST

_AWAY: Final = 5.0
_SLOW: Final = 0.15
_WHY_LATE: Final = (
    "Redis replicates after it has answered: what the primary acknowledged and had not passed on when it died never "
    "happened. With a replica that keeps up that is less than a millisecond, which no run here has hit. A reply given "
    "in it is given again by the new primary's account, and a task pushed in it is gone unless its producer asks for "
    "WAIT. The agent's history stays right: the turn is found there by its otid."
)


def faults() -> list[Fault]:
    """All of them."""
    return [
        Fault("redis/kill", "Redis gets SIGKILL and is started again on its append-only file", _kill),
        Fault("redis/restart", "Redis is restarted politely", _restart),
        Fault(
            "redis/failover",
            "the primary gets SIGKILL; Sentinel makes the replica primary",
            _failover,
            prepare=_in_step,
            shape=Shape(sentinel=True),
            window=_WHY_LATE,
            unkept=frozenset({"lost", "repeated_replies", "out_of_order", "accounts", "journal"}),
        ),
        Fault("redis/black-hole", f"no byte passes between Redis and the services for {_AWAY:g} s", _black_hole),
        Fault("redis/slow", f"every packet to and from Redis takes {_SLOW * 1000:g} ms for 5 s", _slow),
        Fault("redis/answers-lost", "Redis does what it is told for 2 s, and every answer is lost", _answers_lost),
        Fault("redis/client-kill", "CLIENT KILL for every connection, five times", _client_kill),
        Fault("redis/script-flush", "SCRIPT FLUSH, ten times", _script_flush),
        Fault(
            "redis/slot-moving",
            "the queue's slot of a Redis Cluster moves to another primary, and back",
            _move_slot,
            shape=Shape(cluster=True),
        ),
        Fault("redis/full", f"maxmemory is reached and nothing may be evicted, for {_AWAY:g} s", _full),
    ]


def _kill(scene: Scene) -> None:
    scene.strike()
    scene.rig.restart(scene.rig.redis)


def _restart(scene: Scene) -> None:
    scene.strike()
    scene.rig.redis.restart()


def _in_step(scene: Scene) -> None:
    """A replica that is still copying would lose what it never had."""
    replica = scene.rig.replica
    if replica is None:
        raise RuntimeError("there is no replica to make the primary")
    with Redis(host=HOST, port=replica.port, socket_timeout=5) as client:
        if not wait_until(lambda: client.info("replication")["master_link_status"] == "up", 30.0):
            scene.problems.append("the replica did not catch up within 30 s")


def _failover(scene: Scene) -> None:
    primary = scene.rig.redis
    scene.strike()
    primary.kill()
    wait_until(lambda: scene.rig.client().connection_pool.get_master_address()[1] != primary.port, 30.0)  # type: ignore[attr-defined]  # Sentinel's pool


def _black_hole(scene: Scene) -> None:
    scene.strike()
    scene.rig.to_redis.blackhole()
    scene.let_pass(_AWAY)
    scene.rig.to_redis.resume()


def _slow(scene: Scene) -> None:
    scene.strike()
    scene.rig.to_redis.delay(to_server=_SLOW, to_client=_SLOW)
    scene.let_pass(5.0)
    scene.rig.to_redis.resume()


def _answers_lost(scene: Scene) -> None:
    scene.strike()
    scene.rig.to_redis.drop_answers()
    scene.let_pass(2.0)
    scene.rig.to_redis.resume()


def _client_kill(scene: Scene) -> None:
    scene.strike()
    for _ in range(5):
        with scene.rig.client() as client:
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)
        scene.let_pass(scene.random.uniform(0.1, 0.5))


def _script_flush(scene: Scene) -> None:
    scene.strike()
    for _ in range(10):
        with scene.rig.client() as client:
            client.script_flush()
        scene.let_pass(scene.random.uniform(0.05, 0.2))


def _move_slot(scene: Scene) -> None:
    second = scene.rig.second
    if second is None:
        return
    scene.strike()
    nodes = [scene.rig.redis, second]
    for source, target in (nodes, nodes[::-1]):
        with Redis(host=HOST, port=source.port) as here, Redis(host=HOST, port=target.port) as there:
            slot: Any = here.execute_command("CLUSTER", "KEYSLOT", f"{{{QUEUE}}}")
            name: Any = there.execute_command("CLUSTER", "MYID")
            here.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name)
            if not wait_until(lambda node=there: _owns(node), 30.0):
                scene.problems.append("the slot did not move")
        scene.let_pass(scene.random.uniform(0.2, 1.0))


def _owns(node: Any) -> bool:
    """Whether the node answers for the queue's slot; else it sends its client on."""
    try:
        node.execute_command("EXISTS", f"{{{QUEUE}}}:counters")
    except RedisError:
        return False
    return True


def _full(scene: Scene) -> None:
    scene.strike()
    with scene.rig.client() as client:
        client.config_set("maxmemory", "1")
        scene.let_pass(_AWAY)
        while True:
            try:
                client.config_set("maxmemory", "0")
            except RedisError:
                scene.let_pass(0.1)
            else:
                return
