"""A pytest plugin: the parts of the stack as fixtures. Load it with `-p local_stack.fixtures`.

Nothing is started that no test asks for. What is missing on this machine skips the test; in CI it fails it.

============================  ========  ================================================================
fixture                       scope     gives
============================  ========  ================================================================
`redis_server`                session   a `Valkey`; kill and restart it at will
`redis_url`                   test      its URL, emptied, running
`postgres_server`             session   a `Postgres`
`postgres_url`                test      the URL of an empty database on it, dropped afterwards
`scripted_model`              session   a `ScriptedModel`
`letta`                       session   a real `Letta` on PostgreSQL and the scripted model
`letta_double`                test      `letta_double(file=None, **options) -> LettaDouble`, ready
`tcp_proxy`                   test      `tcp_proxy(target) -> TcpProxy`
`bridge_factory`              test      `bridge_factory(redis_url, letta, **environment) -> Bridge`, ready
`memory_factory`              test      `memory_factory(redis_url, model=None, **environment) -> Memory`, ready
`stack_factory`               test      `stack_factory(data=None) -> Stack`, ready, on free ports
`real_model`                  session   a `RealModel`; skips the test unless pytest got `--real-model`
============================  ========  ================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis

from local_stack.errors import MissingPart
from local_stack.letta import Letta
from local_stack.letta_double.process import LettaDouble
from local_stack.models import ModelAccess, ScriptedModel
from local_stack.postgres import Postgres
from local_stack.processes import Process
from local_stack.proxy import TcpProxy
from local_stack.real_model.servers import RealModel
from local_stack.services import Bridge, Memory
from local_stack.stack import Stack
from local_stack.valkey import Valkey

BridgeFactory = Callable[..., Bridge]
MemoryFactory = Callable[..., Memory]
DoubleFactory = Callable[..., LettaDouble]
StackFactory = Callable[..., Stack]
ProxyFactory = Callable[[str], TcpProxy]

_P = TypeVar("_P", bound=Process)
_numbers = count(1)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey with an append-only file. Tests that use it directly leave it running."""
    with missing_parts(), _running(Valkey(tmp_path_factory.mktemp("valkey"))) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: Valkey) -> str:
    """An empty, running Redis, whatever the previous test did to it."""
    redis_server.resume()
    redis_server.start()
    redis_server.wait_ready()
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL with pgvector, without fsync."""
    with missing_parts(), _running(Postgres(tmp_path_factory.mktemp("postgres"), durable=False)) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> Iterator[str]:
    """An empty database."""
    name = f"test_{next(_numbers)}"
    postgres_server.create_database(name)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def scripted_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedModel]:
    """The deterministic model; its `base_url` takes dials under /control."""
    with missing_parts(), _running(ScriptedModel(logs=tmp_path_factory.mktemp("model"))) as server:
        yield server


@pytest.fixture(scope="session")
def letta(
    postgres_server: Postgres, scripted_model: ScriptedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Letta]:
    """The real server; starting it takes ten seconds or more, once."""
    with (
        missing_parts(),
        _running(Valkey(tmp_path_factory.mktemp("locks"), durable=False)) as locks,
        _running(
            Letta(
                tmp_path_factory.mktemp("letta"),
                database_url=f"{postgres_server.url('letta')}?sslmode=disable",
                locks=(locks.host, locks.port),
                model=scripted_model.access,
            )
        ) as server,
    ):
        yield server


@pytest.fixture
def letta_double(tmp_path: Path) -> Iterator[DoubleFactory]:
    """Makes running doubles of Letta that end with the test. A double without a file keeps no data after its end."""
    with ExitStack() as held:

        def make(file: Path | None = None, **options: Any) -> LettaDouble:
            double = LettaDouble(file, logs=tmp_path, **options)
            held.callback(double.kill)
            double.start()
            double.wait_ready()
            return double

        yield make


@pytest.fixture
def tcp_proxy() -> Iterator[ProxyFactory]:
    """Makes proxies that end with the test."""
    with ExitStack() as held:
        yield lambda target: held.enter_context(TcpProxy(target))


@pytest.fixture
def bridge_factory(tmp_path: Path) -> Iterator[BridgeFactory]:
    """Makes running bridges that are killed with the test: a polite end costs a second, and who wants one asks for it.

    All of one test share one data directory, as bridges of one host do, unless `data` names another one. Pass
    `ready=False` to get one that is only started. They share their tenant with other queues: each test empties Redis,
    which makes another queue of it, and all tests have one Letta.
    """
    with ExitStack() as held:

        def make(
            redis_url: str, letta: Letta | str, *, ready: bool = True, data: str = "bridge", **environment: str | None
        ) -> Bridge:
            with missing_parts():
                number = next(_numbers)
                bridge = Bridge(
                    tmp_path / data,
                    redis_url=redis_url,
                    letta=letta,
                    name=f"letta-bridge-{number}",
                    variables={"TENANT_SHARDS": "true", **environment},
                )
            held.callback(bridge.kill)
            bridge.start()
            if ready:
                bridge.wait_ready()
            return bridge

        yield make


@pytest.fixture
def memory_factory(tmp_path: Path) -> Iterator[MemoryFactory]:
    """Makes running memory-pythons that are killed with the test."""
    with ExitStack() as held:

        def make(redis_url: str, model: ModelAccess | None = None, **environment: str | None) -> Memory:
            with missing_parts():
                memory = Memory(logs=tmp_path, redis_url=redis_url, model=model, variables=environment)
            held.callback(memory.kill)
            memory.start()
            memory.wait_ready()
            return memory

        yield make


@pytest.fixture
def stack_factory(tmp_path: Path) -> Iterator[StackFactory]:
    """Makes whole stacks that end with the test; a second one on the same directory needs the first stopped."""
    with ExitStack() as held:

        def make(data: Path | None = None) -> Stack:
            with missing_parts():
                return held.enter_context(Stack(data or tmp_path / "stack", variables={}))

        yield make


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real-model", action="store_true", help="run the tests of a small real language model, too")


@pytest.fixture(scope="session")
def real_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealModel]:
    """A small language model and real embeddings on the CPU."""
    if not request.config.getoption("--real-model"):
        pytest.skip("a real language model is not wanted here; ./run test --real-model fetches and starts one")
    try:
        model = RealModel(tmp_path_factory.mktemp("real-model"))
    except MissingPart as error:
        pytest.skip(str(error))
    with model:
        yield model


@contextmanager
def _running(process: _P) -> Iterator[_P]:
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


@contextmanager
def missing_parts() -> Iterator[None]:
    """Skip the test if a program is missing; in CI the test fails."""
    try:
        yield
    except MissingPart as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
