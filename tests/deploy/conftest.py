"""The deployment files as the tests see them: compose files merged and filled in, images built without an engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_stack.ports import HOST, free_port
from local_stack.processes import Process
from local_stack.programs import CHECKOUT
from local_stack.valkey import Valkey

_NOBODY = 65534
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<how>[-?+])(?P<text>(?:[^{}]|\$\{[^{}]*\})*))?\}")
_PREPARED = {"AIVTUBER_UID": "10001", "AIVTUBER_GID": "10001", "COMPOSE_PROJECT_NAME": "aivtuber"}
"""What deploy/prepare writes into .env, or compose itself knows."""
_PASSWORDS = ("redis_password", "redis_admin_password", "redis_bridge_password", "redis_memory_password",
              "redis_client_password", "redis_scaler_password", "letta_server_password", "letta_encryption_key",
              "bridge_api_token", "database_password", "openai_api_key")  # fmt: skip


@pytest.fixture(scope="session")
def checkout() -> Path:
    return CHECKOUT


@pytest.fixture(scope="session")
def compose() -> Callable[..., dict[str, Any]]:
    """`compose("docker-compose.yml", …, VARIABLE=…)`: the files laid over each other, variables filled in."""

    def load(*files: str, **variables: str) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for file in files:
            merged = _lay_over(merged, _fill(_parsed(file), _PREPARED | variables))
        for service in merged["services"].values():
            service["volumes"] = [_short(mount) for mount in service.get("volumes", [])]
        return merged

    return load


@cache
def _parsed(file: str) -> Any:
    return yaml.safe_load((CHECKOUT / file).read_text("utf-8"))


def _fill(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, variables) for inner in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        given = variables.get(match["name"], "")
        if not given and match["how"] == "?":
            raise LookupError(match["text"])
        if match["how"] == "+":
            return _VARIABLE.sub(replace, match["text"]) if given else ""
        return given or match["text"] or ""

    while (filled := _VARIABLE.sub(replace, value)) != value:  # one variable may be another's default
        value = filled
    return value


def _short(mount: Any) -> str:
    """A mount in one line; those in several make no folder that is missing."""
    if isinstance(mount, str):
        return mount
    assert mount["bind"] == {"create_host_path": False}
    return f"{mount['source']}:{mount['target']}"


def _lay_over(below: Any, above: Any, key: str = "") -> Any:
    """As compose merges files: mappings by key, lists joined, commands and tests replaced."""
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {name: _lay_over(below.get(name), value, name) for name, value in above.items()}
    if isinstance(below, list) and isinstance(above, list) and key not in {"command", "entrypoint", "test"}:
        return below + above
    return above


@dataclass
class Image:
    """What a Dockerfile makes, in a scratch directory instead of a file system of its own."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def inside(self, text: str) -> str:
        """Absolute paths of the image, where they are in the scratch directory."""
        return re.sub(r"(?<![\w.])/(?=opt/|build|etc/letta-bridge|data|run/secrets)", f"{self.root}/", text)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory that another user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="letta-bridge-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def build(scratch: Path) -> Callable[[str], Image]:
    """`build("memory-python")`: do what services/memory-python/Dockerfile says, but for pulling images.

    All stages share one root.
    """

    @cache
    def make(service: str) -> Image:
        root = Path(tempfile.mkdtemp(dir=scratch, prefix=f"{service}-"))
        root.chmod(0o755)
        image = Image(root)
        # Of Letta's image only the packages are looked at; to copy, compile and delete a gigabyte takes a minute.
        thrift = {"UV_COMPILE_BYTECODE": "0", "UV_LINK_MODE": "hardlink"}
        savings = thrift if service == "letta-server" else {}
        builder = _Builder(image, _python_for_everybody(root), savings)
        for word, rest in instructions(service):
            builder.step(word, rest)
        return image

    return make


class _Builder:
    """One instruction after the other."""

    def __init__(self, image: Image, python: Path, savings: dict[str, str]) -> None:
        self._image = image
        self._path = f"{python}:{CHECKOUT / '.tools/bin'}:{CHECKOUT / 'deploy'}:{os.environ['PATH']}"
        self._workdir = image.root
        self._variables: dict[str, str] = {}
        self._savings = savings

    def step(self, word: str, rest: str) -> None:
        match word:
            case "ENV":
                self._image.environment = dict(pair.split("=", 1) for pair in rest.split())
                self._variables |= {name: self._image.inside(value) for name, value in self._image.environment.items()}
            case "ARG":
                name, _, value = rest.partition("=")
                self._variables[name] = value
            case "WORKDIR":
                self._workdir = Path(self._image.inside(rest))
                self._workdir.mkdir(exist_ok=True)
            case "COPY":
                self._copy(rest.split())
            case "RUN":
                self._run(re.sub(r"--mount=\S+ ", "", rest))
            case "ENTRYPOINT":
                self._image.entrypoint = json.loads(rest)
            case "CMD":
                self._image.command = json.loads(rest)

    def _copy(self, words: list[str]) -> None:
        *sources, target = (word for word in words if not word.startswith("--chmod="))
        place = self._workdir / self._image.inside(target)
        if sources[0].startswith("--from="):
            assert place.exists(), f"an earlier stage makes {target}"
            return
        for source in map(CHECKOUT.joinpath, sources):
            if target.startswith("/usr/local/bin"):
                continue  # deploy/fetch is found on PATH
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("tests", ".venv", "__pycache__"))
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, place)

    def _run(self, command: str) -> None:
        if command.startswith(("fetch pip install", "install --directory")):
            return  # uv is there already; who owns /data is told by its mount
        done = subprocess.run(
            ["sh", "-c", self._image.inside(command)],
            cwd=self._workdir,
            env={**os.environ, **self._variables, "PATH": self._path, "UV_PYTHON_PREFERENCE": "only-system"}
            | self._savings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def instructions(service: str) -> list[tuple[str, str]]:
    text = _dockerfile_path(service).read_text("utf-8")
    code = "\n".join(line for line in text.splitlines() if line and not line.startswith("#"))
    return [tuple(line.split(" ", 1)) for line in re.sub(r"\s*\\\n\s*", " ", code).splitlines()]  # type: ignore[misc]  # each has two words


def _dockerfile_path(service: str) -> Path:
    paths = [CHECKOUT / folder / service / "Dockerfile" for folder in ("services", "tools")]
    [found] = [path for path in paths if path.is_file()]
    return found


@pytest.fixture(scope="session")
def dockerfile_path() -> Callable[[str], Path]:
    """The path of a service's or a tool's Dockerfile."""
    return _dockerfile_path


@pytest.fixture(scope="session")
def dockerfile() -> Callable[[str], list[tuple[str, str]]]:
    """The instructions of a service's Dockerfile, as (word, rest)."""
    return instructions


def _python_for_everybody(root: Path) -> Path:
    """The directory of a `python` that another user may run."""
    candidates = [shutil.which(name) for name in ("python3", "python3.13", "python3.12", "python3.11")]
    for path in (*candidates, "/usr/bin/python3", sys.executable):
        check = "import sys; sys.exit(sys.version_info < (3, 11))"
        if (
            path
            and subprocess.run([*_as_nobody(), path, "-c", check], capture_output=True, check=False).returncode == 0
        ):
            (root / "bin").mkdir()
            (root / "bin/python").symlink_to(path)
            return root / "bin"
    pytest.skip("no Python 3.11 or newer here that another user may run")


def _as_nobody() -> list[str]:
    """As compose runs it: another user, no capabilities, none to be had. Who is not root stays who he is."""
    if os.geteuid() != 0:
        return []
    words = f"setpriv --reuid={_NOBODY} --regid={_NOBODY} --clear-groups --no-new-privs --inh-caps=-all"
    return [*words.split(), "--bounding-set=-all"]


@pytest.fixture(scope="session")
def secrets(scratch: Path) -> Path:
    """A file with a password for each secret of the compose file, as a container sees them below /run/secrets."""
    folder = scratch / "secrets"
    folder.mkdir()
    for name in _PASSWORDS:
        file = folder / name
        file.write_text(f"Db-1{name}-of-the-test\n", encoding="utf-8")
        file.chmod(0o444)
    return folder


@pytest.fixture
def redis_with_users(tmp_path: Path, secrets: Path, compose: Callable[..., dict[str, Any]]) -> Iterator[Valkey]:
    """A real server, started by the compose file's own command: the ACL file made by deploy/redis/start."""
    server = Valkey(tmp_path)
    program = Path(server._command[0])
    run = tmp_path / "run"
    run.mkdir()
    words = compose("docker-compose.yml")["services"]["redis"]["command"]
    here = {"/opt/alone": str(CHECKOUT / "deploy/alone"), "/data": str(tmp_path)}
    words = [here.get(word, word.replace("/etc/redis", str(CHECKOUT / "deploy/redis"))) for word in words]
    process = Process(
        "redis",
        [*words, "--port", str(server.port), "--bind", HOST],
        logs=tmp_path,
        environment={"PATH": f"{program.parent}:/usr/bin:/bin", "REDIS_SECRETS": str(secrets), "REDIS_RUN": str(run)},
        ready=lambda: "Ready to accept connections" in process.log_tail(),
        start_timeout=30,
    )
    process.start()
    process.wait_ready()
    try:
        yield server
    finally:
        process.stop()


Start = Callable[..., Process]


@pytest.fixture
def start(build: Callable[[str], Image], scratch: Path, secrets: Path, tmp_path: Path) -> Iterator[Start]:
    """`start(service, definition, hosts)`: what the compose file starts, started here, ready when it is healthy.

    `hosts` maps a service's name to the address it has here. The working directory cannot be written to.
    """
    with ExitStack() as held:

        def run(service: str, definition: Mapping[str, Any], hosts: Mapping[str, tuple[str, int]]) -> Process:
            image = build(Path(definition["build"]["dockerfile"]).parent.name)
            port = free_port()
            environment = _environment(image, definition, hosts, secrets)
            data = Path(tempfile.mkdtemp(dir=scratch, prefix=f"{service}-data-"))
            data.chmod(0o777)
            prefix = {"letta-bridge": "BRIDGE_HTTP", "memory-python": "MEMORY_HTTP"}.get(service)
            if prefix:
                environment |= {f"{prefix}_HOST": HOST, f"{prefix}_PORT": str(port)}
            if "DATA_DIR" in environment:
                environment["DATA_DIR"] = str(data)
            words = [*image.entrypoint, *definition.get("command", image.command)]
            words = [str(port) if word == "8000" else word for word in words]
            cwd = Path(tempfile.mkdtemp(dir=scratch, prefix="read-only-"))
            cwd.chmod(0o555)
            check = [re.sub(r":\d{4}/", f":{port}/", image.inside(word)) for word in definition["healthcheck"]["test"]]
            process = Process(
                f"{service}-{port}",
                [*_as_nobody(), str(image.root / "opt/app/bin" / words[0]), *words[1:]],
                logs=tmp_path,
                environment=environment,
                ready=lambda: subprocess.run(check[1:], env=environment, check=False).returncode == 0,
                cwd=cwd,
                stop_timeout=30.0,
            )
            process.url = f"http://{HOST}:{port}"  # type: ignore[attr-defined]  # where the tests find it
            held.callback(process.stop)
            process.start()
            process.wait_ready()
            return process

        yield run


def _environment(
    image: Image, definition: Mapping[str, Any], hosts: Mapping[str, tuple[str, int]], secrets: Path
) -> dict[str, str]:
    found = {name: image.inside(value) for name, value in image.environment.items()}
    found["PATH"] = f"{image.root}/opt/app/bin:/usr/bin:/bin"
    for name, value in definition.get("environment", {}).items():
        text = str(value).replace("/run/secrets", str(secrets))
        for host, (address, port) in hosts.items():
            text = re.sub(rf"([/@]){host}:\d+", rf"\g<1>{address}:{port}", text)
            if text == host:
                text = address
                found[name.replace("_HOST", "_PORT")] = str(port)
        if not (name in found and name.endswith("_PORT") and found[name].isdigit() and name != "LETTA_PG_PORT"):
            found[name] = text
    return found
