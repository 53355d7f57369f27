"""The listeners that docs/streaming.md shows, run as they stand there beside a bridge and a double of Letta."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from local_stack.errors import MissingPart
from local_stack.fixtures import BridgeFactory, DoubleFactory, missing_parts
from local_stack.programs import debian_program

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
NODE_LIBRARIES = Path("/usr/share/nodejs")
"""Where Debian's packages put libraries for Node."""


@pytest.fixture(params=["docs/streaming.md", "docs/streaming.zh-CN.md"])
def page(request: pytest.FixtureRequest) -> str:
    return (ROOT / str(request.param)).read_text(encoding="utf-8")


@pytest.fixture
def product(redis_url: str, letta_double: DoubleFactory, bridge_factory: BridgeFactory) -> Iterator[redis.Redis]:
    """A running stack, and what other programs see of it."""
    bridge_factory(redis_url, letta_double().url)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def code(page: str, language: str, redis_url: str) -> str:
    """The one block in this language, pointed at this Redis."""
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (block,) = blocks
    address = redis_url.removeprefix("redis://").partition("/")[0]
    return block.replace("127.0.0.1:16379", address).replace("-p 16379", f"-p {address.rpartition(':')[2]}")


def printed(*command: str | Path, **environment: str) -> list[str]:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def spoken(product: redis.Redis, task_id: str) -> list[str]:
    """What a listener prints of the task's stream."""
    entries: Any = product.xrange(f"{{letta_requests}}:stream:ada:{task_id}")
    events = [json.loads(fields["event"]) for _, fields in entries]
    assert events[-1]["type"] == "end"
    sentences = [event for event in events if event["type"] == "sentence"]
    assert "".join(event["text"] for event in sentences) == events[-1]["reply"]["response_text"]
    return [*(f"sentence {event['speech']}" for event in sentences), "end"]


def test_the_listener_in_python_hears_every_sentence(page: str, product: redis.Redis, redis_url: str) -> None:
    said = printed(sys.executable, "-c", code(page, "python", redis_url))
    assert [line.rstrip() for line in said] == spoken(product, "ada-44")
    assert len(said) > 1


def test_the_listener_in_python_ends_where_a_task_is_refused_before_it_has_a_stream(
    page: str, product: redis.Redis, redis_url: str
) -> None:
    program = code(page, "python", redis_url).replace('"Hello!"', "[1, 2]")
    assert printed(sys.executable, "-c", program) == ["error malformed"]
    assert not product.exists("{letta_requests}:stream:ada:ada-44")


def test_the_listener_in_node_hears_every_sentence(
    page: str, product: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    with missing_parts():
        node = debian_program("node", package="nodejs")
        if not (NODE_LIBRARIES / "redis").exists():
            raise MissingPart("node-redis is not installed; on Debian and Ubuntu: apt-get install node-redis.")
    file = tmp_path / "listener.js"
    file.write_text(code(page, "js", redis_url), encoding="utf-8")
    said = printed(node, file, NODE_PATH=str(NODE_LIBRARIES))
    assert [line.rstrip() for line in said] == spoken(product, "ada-45")


def test_redis_cli_listens_and_interrupts(page: str, product: redis.Redis, redis_url: str) -> None:
    with missing_parts():
        redis_cli = debian_program("redis-cli", package="redis-tools")
    lines = [shlex.split(line)[1:] for line in code(page, "sh", redis_url).splitlines()]
    subscribe, push, read, interrupt = lines
    with subprocess.Popen([redis_cli, *subscribe], stdout=subprocess.PIPE, text=True) as listener:
        output = listener.stdout
        assert output is not None
        _until(output, "subscribe")
        printed(redis_cli, *push)
        event = json.loads(_until(output, '"type":"end"'))
        listener.terminate()
    assert event["reply"]["status"] == "ok"
    assert '"type":"started"' in "\n".join(printed(redis_cli, *read))
    printed(redis_cli, *interrupt)
    noted = None  # the interrupt has come too late
    for _ in range(600):
        if noted := product.hget("{letta_requests}:interrupts", "ada:ada-43"):
            break
        time.sleep(0.05)
    assert " over\n" in str(noted)


def _until(output: Any, word: str) -> str:
    while line := output.readline():
        if word in line:
            return str(line)
    pytest.fail(f"redis-cli ended without {word}")


@pytest.mark.parametrize("name", ["redis-cli", "python", "js"])
def test_both_languages_show_the_same_listeners(name: str) -> None:
    language = {"redis-cli": "sh"}.get(name, name)
    pages = [(ROOT / f"docs/streaming{suffix}.md").read_text(encoding="utf-8") for suffix in ("", ".zh-CN")]
    english, chinese = [re.sub(r"\s*(#|//) .*", "", code(page, language, "redis://h:1/0")) for page in pages]
    assert english == chinese
