"""Every form of address the README names, against a real server of that kind: it connects, or says why not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import uvloop
from redis import Redis as SyncRedis

from local_stack.fixtures import missing_parts
from local_stack.ports import HOST, free_port
from local_stack.processes import Process
from local_stack.programs import debian_program
from local_stack.tls import Certificates, TlsFront, make_certificates
from local_stack.valkey import Sentinel, Valkey
from shared_utils.config.settings import RedisSettings
from shared_utils.redis.connection import CONNECTION_ERRORS, close, connect, subscriber
from shared_utils.redis.failures import explain, redis_failure
from shared_utils.redis.pipeline import pipeline_of

pytestmark = pytest.mark.integration

PASSWORD = "p@s:s/w#r?d%41 é[x"
ESCAPED = quote(PASSWORD, safe="")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Starts servers that end with the module."""
    with contextlib.ExitStack() as running:

        def start(make: Any, *arguments: Valkey, **options: Any) -> Any:
            folder = tmp_path_factory.mktemp("server")
            server = make(folder, *arguments, **options)
            running.callback(server.kill)
            server.start()
            server.wait_ready()
            return server

        start.enter = running.enter_context  # type: ignore[attr-defined]
        yield start


@pytest.fixture(scope="module")
def guarded(started: Callable[..., Any]) -> Any:
    """A server with a password full of characters that URLs mind, an ACL user, and a socket."""
    # A socket's path may have about a hundred bytes.
    path = f"/tmp/values-{free_port()}.sock"  # noqa: S108
    server = started(Valkey, durable=False, options={"requirepass": PASSWORD, "unixsocket": path})
    with SyncRedis(host=HOST, port=server.port, password=PASSWORD) as client:
        client.execute_command("ACL", "SETUSER", "bridge", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    server.socket = path
    return server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    with missing_parts():
        return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def open_server(started: Callable[..., Any]) -> Any:
    return started(Valkey, durable=False)


async def used(settings: RedisSettings) -> None:
    """A client that has done what services do with one: commands, a script, a pipeline, a subscription."""
    client = connect(settings, name="test", timeout=5)
    try:
        await client.set("key", "value")
        assert await client.eval("return redis.call('GET', KEYS[1])", 1, "key") == b"value"
        assert await pipeline_of(client).execute(("GET", "key"), ("DEL", "key")) == [b"value", 1]
        subscription = await subscriber(client, "key")
        async with subscription:
            await subscription.subscribe("channel")
            await client.publish("channel", "hello")
            async with asyncio.timeout(10):
                while (message := await subscription.get_message(timeout=1)) is None:
                    pass
        assert message["data"] == b"hello"
    finally:
        await close(client)


async def refusal(settings: RedisSettings) -> str:
    """What an operator reads where it does not connect."""
    client = connect(settings, name="test", timeout=5)
    try:
        with pytest.raises(CONNECTION_ERRORS) as caught:
            await client.ping()
    finally:
        await close(client)
    assert PASSWORD not in str(caught.value)
    return explain(caught.value)


@pytest.mark.parametrize("url", ["redis://:{pw}@127.0.0.1:{port}", "redis://127.0.0.1:{port}/1?password={pw}"])
async def test_one_server_with_a_password(guarded: Valkey, url: str) -> None:
    await used(RedisSettings(url=url.format(pw=ESCAPED, port=guarded.port)))


async def test_one_server_by_host_and_port(guarded: Valkey) -> None:
    await used(RedisSettings(host=HOST, port=guarded.port, password=PASSWORD, db=2))


async def test_a_password_beside_the_url(guarded: Valkey) -> None:
    await used(RedisSettings(url=f"redis://127.0.0.1:{guarded.port}/3", password=PASSWORD))


async def test_a_server_with_an_acl_user_is_reached(guarded: Valkey) -> None:
    await used(RedisSettings(url=f"redis://bridge:{ESCAPED}@127.0.0.1:{guarded.port}"))
    said = await refusal(RedisSettings(url=f"redis://nobody:{ESCAPED}@127.0.0.1:{guarded.port}"))
    assert said.startswith("Redis refuses the password (")


async def test_a_missing_password_is_named(guarded: Valkey) -> None:
    said = await refusal(RedisSettings(url=f"redis://127.0.0.1:{guarded.port}"))
    assert said.startswith("Redis refuses the password (Authentication required)")
    assert "REDIS_PASSWORD" in said


@pytest.mark.parametrize("query", ["", "?db=1"])
async def test_a_server_at_a_unix_socket_is_reached(guarded: Any, query: Any) -> None:
    await used(RedisSettings(url=f"unix://:{ESCAPED}@{guarded.socket}{query}"))
    await used(RedisSettings(url=f"unix://{guarded.socket}", password=PASSWORD))


def test_a_unix_socket_on_uvloop(guarded: Any) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(used(RedisSettings(url=f"unix://:{ESCAPED}@{guarded.socket}")))


async def test_a_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    said = await refusal(RedisSettings(url=f"unix://{tmp_path}/none.sock"))
    assert "cannot be reached: the socket does not exist; correct the path" in said


@pytest.fixture(scope="module")
def loopback6() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback address")


async def test_a_server_at_an_ipv6_address_is_reached(loopback6: None, started: Callable[..., Any]) -> None:
    server = started(Valkey, durable=False, options={"bind": f"{HOST} ::1"})
    await used(RedisSettings(url=f"redis://[::1]:{server.port}"))


async def test_closed_port_is_explained() -> None:
    said = await refusal(RedisSettings(url=f"redis://127.0.0.1:{free_port()}"))
    assert "cannot be reached: no program listens there (connection refused); check REDIS_URL" in said


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("form", ["redis://no-such-host.invalid", "redis+sentinel://no-such-host.invalid/bridge",
                                  "redis+cluster://no-such-host.invalid", "rediss://no-such-host.invalid"])  # fmt: skip
def test_a_name_that_cannot_be_resolved_reads_so(loop: Callable[..., Any], form: str) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        said = runner.run(refusal(RedisSettings(url=form)))
    assert "its name cannot be resolved; correct the host in REDIS_URL" in said


@pytest.fixture(scope="module")
def tls(started: Any, open_server: Any, certificates: Any) -> Any:
    return started.enter(TlsFront(open_server.port, certificates))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_tls_with_a_private_authority(tls: TlsFront, certificates: Certificates, host: str) -> None:
    await used(RedisSettings(url=f"rediss://{host}:{tls.port}/0?ssl_ca_certs={certificates.authority}"))


def test_a_tls_server_is_reached_from_uvloop(tls: TlsFront, certificates: Certificates) -> None:
    url = f"rediss://localhost:{tls.port}/0?ssl_ca_certs={certificates.authority}"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(used(RedisSettings(url=url)))


@pytest.mark.parametrize("query", ["ssl_cert_reqs=none", "ssl_cert_reqs=CERT_NONE&ssl_check_hostname=false"])
async def test_a_tls_server_is_reached_without_verification(tls: TlsFront, query: str) -> None:
    await used(RedisSettings(url=f"rediss://127.0.0.1:{tls.port}?{query}"))


async def test_tls_without_the_hosts_name(tls: TlsFront, certificates: Certificates) -> None:
    # 127.0.0.2 is this machine, too, and not in the certificate.
    authority = f"ssl_ca_certs={certificates.authority}"
    said = await refusal(RedisSettings(url=f"rediss://ip6-localhost.invalid:{tls.port}?{authority}"))
    assert "its name cannot be resolved" in said
    await used(RedisSettings(url=f"rediss://localhost:{tls.port}?{authority}&ssl_check_hostname=no"))


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_untrusted_certificate_reads_so(tls: TlsFront, loop: Callable[..., Any]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        said = runner.run(refusal(RedisSettings(url=f"rediss://localhost:{tls.port}")))
    assert "its certificate is not trusted (" in said
    assert "?ssl_ca_certs=/path/to/ca.pem" in said
    assert "refused" not in said


async def test_tls_toward_a_server_without_it_reads_so(open_server: Valkey) -> None:
    said = await refusal(RedisSettings(url=f"rediss://127.0.0.1:{open_server.port}"))
    assert "rediss:// is used only if the server has TLS" in said
    assert "refused" not in said


async def test_no_tls_toward_a_server_that_wants_it_is_not_called_a_refusal(tls: TlsFront) -> None:
    said = await refusal(RedisSettings(url=f"redis://127.0.0.1:{tls.port}"))
    assert "connection refused" not in said


async def test_a_client_certificate_is_presented(started: Any, open_server: Any, certificates: Any) -> None:
    front = started.enter(TlsFront(open_server.port, certificates, mutual=True))
    url = f"rediss://localhost:{front.port}?ssl_ca_certs={certificates.authority}"
    await used(RedisSettings(url=f"{url}&ssl_certfile={certificates.certificate}&ssl_keyfile={certificates.key}"))


async def test_a_server_that_speaks_tls_itself(
    started: Callable[..., Any], certificates: Certificates, tmp_path: Path
) -> None:
    with missing_parts():
        program = debian_program("redis-server", package="redis-server")  # the pinned Valkey is built without TLS
    port = free_port()
    options = {
        "port": "0",
        "tls-port": str(port),
        "bind": HOST,
        "save": "",
        "dir": str(tmp_path),
        "tls-auth-clients": "no",
        "tls-cert-file": str(certificates.certificate),
        "tls-key-file": str(certificates.key),
        "tls-ca-cert-file": str(certificates.authority),
    }
    url = f"rediss://localhost:{port}?ssl_ca_certs={certificates.authority}"

    def answers() -> bool:
        with contextlib.suppress(Exception), SyncRedis.from_url(url) as client:
            return bool(client.ping())
        return False

    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    started(lambda folder: Process("redis-server", [program, *words], logs=folder, ready=answers))
    await used(RedisSettings(url=url))


@pytest.mark.parametrize(
    ("primary", "sentinels", "url", "settings"),
    [
        (None, None, "redis+sentinel://{at}/bridge/0", {}),
        (PASSWORD, None, "redis+sentinel://:{pw}@{at}/bridge/0", {}),
        (PASSWORD, PASSWORD, "redis+sentinel://:{pw}@{at}/bridge/0", {}),
        (PASSWORD, "other", "redis+sentinel://:{pw}@{at}/bridge/0?sentinel_password=other", {}),
        (PASSWORD, "other", "redis+sentinel://{at}/bridge/0", {"password": PASSWORD, "sentinel_password": "other"}),
        (None, "other", "redis+sentinel://{at}/bridge/0", {"sentinel_password": "other"}),
    ],
)
async def test_sentinels_with_and_without_passwords(
    started: Callable[..., Any], primary: Any, sentinels: Any, url: str, settings: dict[str, Any]
) -> None:
    server = started(Valkey, durable=False, options={"requirepass": primary} if primary else {})
    watcher = started(Sentinel, server, password=sentinels, replicas=False)
    at = f"127.0.0.1:{watcher.port}"
    await used(RedisSettings(url=url.format(at=at, pw=ESCAPED), **settings))
    # A Sentinel that is away, in front of it, holds nothing up.
    await used(RedisSettings(url=url.format(at=f"127.0.0.1:{free_port()},{at}", pw=ESCAPED), **settings))


async def test_faults_of_sentinels_are_named(started: Callable[..., Any]) -> None:
    server = started(Valkey, durable=False, options={"requirepass": PASSWORD})
    watcher = started(Sentinel, server, password="other", replicas=False)
    at = f"127.0.0.1:{watcher.port}"
    wrong = await refusal(RedisSettings(url=f"redis+sentinel://:{ESCAPED}@{at}/bridge/0"))
    assert wrong.startswith("the Sentinels cannot be used: Redis refuses the password")
    assert "REDIS_SENTINEL_PASSWORD" in wrong
    unknown = await refusal(RedisSettings(url=f"redis+sentinel://{at}/nobody/0", sentinel_password="other"))
    assert unknown.startswith("the Sentinels name no available primary")
    nobody = await refusal(RedisSettings(url=f"redis+sentinel://127.0.0.1:{free_port()}/bridge/0"))
    assert nobody.startswith("the Sentinels cannot be used: Redis at 127.0.0.1:")
    bare = await refusal(RedisSettings(url=f"redis+sentinel://{at}/bridge/0", sentinel_password="other"))
    assert bare.startswith("Redis refuses the password")


@pytest.fixture
def cluster(started: Callable[..., Any]) -> Iterator[tuple[list[Valkey], list[SyncRedis]]]:
    """Three primaries of one Cluster, with a password; the second has the slot of ``key``."""
    options = {"cluster-enabled": "yes", "requirepass": "pw", "masterauth": "pw", "cluster-node-timeout": "1000"}
    options |= {"cluster-require-full-coverage": "no"}
    nodes = [
        started(Valkey, durable=False, options=options | {"cluster-port": str(free_port())}) for _ in range(3)
    ]  # its own port is the server's plus 10 000 where nobody says otherwise, which may be too high
    with contextlib.ExitStack() as clients:
        asked = [clients.enter_context(SyncRedis(host=HOST, port=node.port, password="pw")) for node in nodes]
        for client, (first, last) in zip(asked, ((0, 5000), (5001, 13000), (13001, 16383)), strict=True):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node, client in zip(nodes[1:], asked[1:], strict=True):
            bus = client.config_get("cluster-port")["cluster-port"]
            asked[0].execute_command("CLUSTER", "MEET", HOST, node.port, bus)
        yield nodes, asked


async def all_know_all(asked: list[SyncRedis]) -> None:
    async with asyncio.timeout(30):
        while not all(client.cluster("INFO")["cluster_known_nodes"] == "3" and
                      client.cluster("INFO")["cluster_state"] == "ok" for client in asked):  # fmt: skip
            await asyncio.sleep(0.05)


async def test_a_cluster_is_entered_through_any_node_that_lives(cluster: tuple[list[Valkey], list[SyncRedis]]) -> None:
    nodes, asked = cluster
    await all_know_all(asked)
    seeds = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    settings = RedisSettings(url=f"redis+cluster://:pw@{seeds}")
    await used(settings)
    dead = next(node for node, client in zip(nodes, asked, strict=True) if not owns(client, "key", "channel"))
    dead.kill()
    first = ",".join(f"127.0.0.1:{node.port}" for node in sorted(nodes, key=lambda node: node is not dead))
    await used(RedisSettings(url=f"redis+cluster://:pw@{first}"))
    said = await refusal(RedisSettings(url=f"redis+cluster://:pw@127.0.0.1:{dead.port}"))
    assert "no program listens there" in said


def owns(client: Any, *keys: Any) -> bool:
    """Whether a node serves the slot of one of these keys."""
    port = client.connection_pool.connection_kwargs["port"]
    ranges = [row for row in client.execute_command("CLUSTER", "SLOTS") if row[2][1] == port]
    slots = [client.execute_command("CLUSTER", "KEYSLOT", key) for key in keys]
    return any(first <= slot <= last for first, last, *_ in ranges for slot in slots)


async def test_a_wrong_password_of_a_cluster_is_named(cluster: tuple[list[Valkey], list[SyncRedis]]) -> None:
    nodes, _ = cluster
    said = await refusal(RedisSettings(url=f"redis+cluster://:wrong@127.0.0.1:{nodes[0].port}"))
    assert "refuses the password" in said


async def test_failure_knows_its_code(guarded: Valkey) -> None:
    client = connect(RedisSettings(url=f"redis://:{ESCAPED}@127.0.0.1:{guarded.port}"), name="test")
    await client.set("text", "1")
    with pytest.raises(CONNECTION_ERRORS) as caught:
        await client.llen("text")
    assert (redis_failure(caught.value).code, redis_failure(caught.value).is_lasting) == ("wrongtype", True)
    with pytest.raises(CONNECTION_ERRORS) as caught:
        await client.eval("return redis.call('LLEN', KEYS[1])", 1, "text")
    assert redis_failure(caught.value).code == "wrongtype"
    assert "script" not in explain(caught.value)
    await close(client)
