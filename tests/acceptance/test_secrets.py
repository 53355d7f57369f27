"""A secret set in every place it can come from is seen nowhere: real processes, with what they depend on refusing."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from local_stack.ports import HOST, free_port
from local_stack.programs import environment, program
from local_stack.valkey import Valkey

pytestmark = pytest.mark.acceptance

SECRET = "Tr0ub4dor-and-3"
"""Of no shape that a pattern would know."""


class Echo(BaseHTTPRequestHandler):
    """A Letta, or a model, that refuses and repeats in its refusal what it was sent."""

    def _refuse(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.dumps({"detail": f"wrong: {self.headers} {self.rfile.read(length)!r}"}).encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _refuse  # noqa: N815  # the names http.server looks for

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer((HOST, 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{HOST}:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def places(tmp_path: Any, redis_url: Any) -> dict[str, Any]:
    """Name → (config.json, config.local.json, environment) with the secret in one place each."""
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    closed = free_port()
    file = tmp_path / "secret"
    file.write_text(SECRET)
    here = {"REDIS_HOST": HOST, "REDIS_PORT": str(port)}
    keys = {"LETTA_API_KEY": SECRET, "OPENAI_API_KEY": SECRET}
    files = {f"{name}_FILE": str(file) for name in ("REDIS_PASSWORD", *keys)}
    return {
        "config files": ({"redis": {"password": SECRET}}, {"letta": {"api_key": SECRET}}, here),
        "variables": ({}, {}, here | keys | {"REDIS_PASSWORD": SECRET}),
        "secret files": ({}, {}, files | {"REDIS_HOST": HOST, "REDIS_PORT": str(closed)}),
        "by path": ({}, {}, {"LETTA_BRIDGE_REDIS_URL": f"redis://bridge:{SECRET}@{HOST}:{port}/0"}),
        "sentinel": ({}, {"redis": {"url": f"redis+sentinel://u:{SECRET}@{HOST}:{closed},{HOST}:{port}/main/0"}}, {}),
        "cluster": ({}, {}, {"REDIS_URL": f"redis+cluster://u:{SECRET}@{HOST}:{closed}"}),
        "not escaped": ({}, {}, {"REDIS_URL": f"redis://:/{SECRET}@{HOST}:{port}/0"}),
        "letta and model": ({}, {}, keys | {"REDIS_URL": redis_url}),
        "a wrong type": ({}, {"redis": {"password": [SECRET]}}, {"REDIS_URL": redis_url}),
        "an address": ({}, {"letta": {"api_urls": [f"http://u:{SECRET}@{HOST}:1"]}}, {"REDIS_URL": redis_url}),
        "a broken file": ({}, f'{{"redis": {{"password": "{SECRET}"', {"REDIS_URL": redis_url}),
    }


PLACES = (
    "config files", "variables", "secret files", "by path", "sentinel", "cluster", "not escaped", "letta and model",
    "a wrong type", "an address", "a broken file",
)  # fmt: skip


@pytest.fixture
def setting(tmp_path: Path, redis_url: str, echo: str) -> Callable[..., Any]:
    """Makes the environment of a process that has the secret from one place."""

    def make(place: Any) -> Any:
        config, local, variables = places(tmp_path, redis_url)[place]
        (tmp_path / "config.json").write_text(json.dumps(config))
        local = local if isinstance(local, str) else json.dumps(local)
        (tmp_path / "config.local.json").write_text(local)
        names = ("REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD", "LETTA_API_KEY", "OPENAI_API_KEY")
        return environment(
            **dict.fromkeys(names)
            | {
                "LETTA_BRIDGE_CONFIG": str(tmp_path / "config.json"),
                "LETTA_API_URL": None if place == "an address" else echo,
                "OPENAI_BASE_URL": f"{echo}/v1",
                "MEMORY_MODEL": "a-model",
                "LETTA_RETRY_ATTEMPTS": "0",
                "LOG_LEVEL": "debug",
                "DATA_DIR": str(tmp_path / "data"),
                "PYTHONASYNCIODEBUG": "1",
            }
            | variables
        )

    return make


@contextmanager
def running(command: Any, variables: Any, log: Any) -> Iterator[Any]:
    """The process, its output in ``log``; ended with the block."""
    with log.open("wb") as output:
        child = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield child
        finally:
            child.terminate()
            child.wait(30)


def pages(port: int) -> Any:
    """What the process serves, once it serves; nothing where it does not."""
    shown = []
    for path in ("/livez", "/readyz?verbose", "/health", "/metrics", "/nothing"):
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=10) as response:
                shown.append(response.read().decode())
        except urllib.error.HTTPError as error:
            shown.append(error.read().decode())
            error.close()
        except OSError:
            return ""
    return "\n".join(shown)


def wait_served(child: Any, port: int) -> Any:
    """Until it serves or has ended; returns its pages."""
    deadline = time.monotonic() + 60
    while child.poll() is None:
        if shown := pages(port):
            return shown
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return ""


def process_list() -> Any:
    return subprocess.run(["ps", "-eww", "-o", "pid,args"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("place", PLACES)
def test_no_trace_of_a_secret(setting: Callable[..., Any], tmp_path: Path, redis_server: Valkey, place: Any) -> None:
    variables = setting(place)
    bridge, memory = free_port(), free_port()
    seen = {}
    with (
        running([program("letta-bridge"), "run", "--port", str(bridge)], variables, tmp_path / "bridge.log") as one,
        running([program("memory-python"), "run", "--port", str(memory)], variables, tmp_path / "memory.log") as two,
    ):
        seen["bridge pages"] = wait_served(one, bridge)
        seen["memory pages"] = wait_served(two, memory)
        seen["process list"] = process_list()
        for command in (
            ["letta-bridge", "send", "hello", "--user", "ada", "--wait", "8"],
            ["letta-bridge", "config", "--json"],
            ["letta-bridge", "doctor"],
            ["memory-python", "stats"],
        ):
            ended = subprocess.run(
                [program(command[0]), *command[1:]],
                env=variables,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            seen[" ".join(command)] = ended.stdout + ended.stderr
    if place == "letta and model":
        assert "long-term memory" in seen["letta-bridge send hello --user ada --wait 8"]
    for name in ("bridge.log", "memory.log"):
        seen[name] = (tmp_path / name).read_text()
        assert seen[name], f"{name} is empty: nothing was tested"
    assert str(bridge) in seen["process list"] or not seen["bridge pages"]
    for where, text in seen.items():
        assert SECRET not in text, f"{where}: {[line for line in text.splitlines() if SECRET in line][:3]}"


@pytest.mark.parametrize(
    "command",
    [["letta-bridge", "run"], ["letta-bridge", "send"], ["memory-python", "run"], ["memory-python", "stats"]],
    ids=" ".join,
)
def test_no_secret_has_a_flag(command: list[str]) -> None:
    shown = subprocess.run([program(command[0]), *command[1:], "--help"], capture_output=True, text=True, check=True)
    flags = [word for word in shown.stdout.split() if word.startswith("--")]
    assert "--config" in flags
    assert not [flag for flag in flags if any(word in flag for word in ("password", "key", "secret", "url", "salt"))]
