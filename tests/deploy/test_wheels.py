"""Wheels, built from the checkout and installed into empty environments, hold everything and run by themselves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local_stack.fixtures import missing_parts
from local_stack.postgres import Postgres
from local_stack.programs import CHECKOUT, letta_program

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("wheels")]  # built once

_FOLDERS = {
    "letta-bridge": "services/letta-bridge-python",
    "letta-bridge-client": "clients/python",
    "letta-bridge-common": "shared_utils",
    "letta-bridge-letta-server": "services/letta-server",
    "letta-bridge-memory": "services/memory-python",
}
_UV = CHECKOUT / ".tools/bin/uv"


def _project(folder: str) -> Mapping[str, Any]:
    pyproject = tomllib.loads((CHECKOUT / folder / "pyproject.toml").read_text("utf-8"))
    return {**pyproject["project"], "module": pyproject["tool"]["uv"]["build-backend"]["module-name"]}


def _run(*words: str | Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=cwd)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Distribution → its wheel. The build backend is uv itself: nothing is fetched."""
    out = tmp_path_factory.mktemp("wheels")
    for folder in _FOLDERS.values():
        _run(_UV, "build", "--quiet", "--wheel", "--offline", "--out-dir", out, CHECKOUT / folder)
    found = {path.name.partition("-")[0].replace("_", "-"): path for path in out.glob("*.whl")}
    assert found.keys() == _FOLDERS.keys()
    return found


@dataclass(frozen=True)
class Installed:
    """An environment outside of the checkout, and an empty folder to run in."""

    root: Path
    cwd: Path

    def run(self, program: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run an installed program, without this process's settings."""
        home = str(self.cwd)
        path = f"{self.root / 'bin'}:/usr/bin:/bin"
        return subprocess.run(
            [self.root / "bin" / program, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.cwd,
            env={"PATH": path, "HOME": home, "DATA_DIR": home, "LANG": "C.UTF-8", "COLUMNS": "120"} | variables,
        )

    def output(self, program: str, *words: str, **variables: str) -> str:
        """What it prints where it succeeds."""
        done = self.run(program, *words, **variables)
        assert done.returncode == 0, f"{program} {words}\n{done.stdout}{done.stderr}"
        return done.stdout


def _install(folder: Path, python: str | Path, lock: Path, *wheels: Path) -> Installed:
    root = folder / "venv"
    environment = {**os.environ, "VIRTUAL_ENV": str(root), "UV_COMPILE_BYTECODE": "0"}
    _run(_UV, "venv", "--quiet", "--python", python, root)
    _run(_UV, "pip", "sync", "--quiet", "--require-hashes", lock, environment=environment)
    # Copied, without the cache: a test changes an installed file, which must not be one of the cache's.
    own = ("--quiet", "--offline", "--no-deps", "--no-cache", "--link-mode", "copy")
    _run(_UV, "pip", "install", *own, *wheels, environment=environment)
    cwd = folder / "empty"
    cwd.mkdir()
    return Installed(root, cwd)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, wheels: Mapping[str, Path]) -> Installed:
    """The bridge and memory-python in one environment, with the locked versions of what they need."""
    folder = tmp_path_factory.mktemp("installed")
    names = ("letta-bridge", "letta-bridge-client", "letta-bridge-common", "letta-bridge-memory")
    needed = folder / "needed.txt"
    lock = CHECKOUT / "requirements.lock"
    needed.write_text(_run(sys.executable, CHECKOUT / "deploy/lock_subset.py", lock, *names), "utf-8")
    return _install(folder, sys.executable, needed, *(wheels[name] for name in names))


def test_the_client_needs_redis_py_and_nothing_else(tmp_path: Path, wheels: Mapping[str, Path], redis_url: str) -> None:
    lock = CHECKOUT / "requirements.lock"
    needed = tmp_path / "needed.txt"
    needed.write_text(
        _run(sys.executable, CHECKOUT / "deploy/lock_subset.py", lock, "letta-bridge-client"), encoding="utf-8"
    )
    client = _install(tmp_path, sys.executable, needed, wheels["letta-bridge-client"])
    _run(_UV, "pip", "check", "--python", client.root / "bin/python")
    installed = set(_run(_UV, "pip", "freeze", "--python", client.root / "bin/python").replace(" @", "=").split("\n"))
    assert {line.partition("=")[0] for line in installed if line} <= {"letta-bridge-client", "redis", "async-timeout"}
    program = f"""
from letta_bridge_client import NoReply, SyncBridge
with SyncBridge({redis_url!r}) as bridge:
    try:
        bridge.ask("ada", "hello", timeout=0.5)
    except NoReply as error:
        print(error.retryable)
"""
    assert client.output("python", "-c", program) == "True\n"


@pytest.mark.parametrize("name", _FOLDERS)
def test_a_wheel_holds_every_file_of_its_package(name: str, wheels: Mapping[str, Path]) -> None:
    project = _project(_FOLDERS[name])
    assert project["name"] == name
    source = f"{_FOLDERS[name]}/src/"
    tracked = _run("git", "ls-files", "-z", source, cwd=CHECKOUT).split("\0")
    expected = {path.removeprefix(source) for path in tracked if path and (CHECKOUT / path).exists()}
    with zipfile.ZipFile(wheels[name]) as wheel:
        held = {path for path in wheel.namelist() if not path.endswith("/") and ".dist-info/" not in path}
        metadata = {Path(path).name for path in wheel.namelist() if ".dist-info/" in path}
    # A file that nobody has added to git yet is in the wheel as well.
    assert expected <= held
    assert {path.partition("/")[0] for path in held} == {project["module"]}
    assert {"METADATA", "LICENSE"} <= metadata


def test_installed_wheels_are_complete_and_outside_of_the_checkout(services: Installed) -> None:
    _run(_UV, "pip", "check", "--python", services.root / "bin/python")
    modules = ("letta_bridge", "letta_bridge_client", "memory_service", "shared_utils")
    shown = "; ".join(f"import {module}; print({module}.__file__)" for module in modules)
    for path in services.output("python", "-c", shown).splitlines():
        assert path.startswith(str(services.root))


@pytest.mark.parametrize(
    ("program", "name"), [("letta-bridge", "letta-bridge"), ("memory-python", "letta-bridge-memory")]
)
def test_program_prints_the_version_of_its_distribution(program: str, name: str, services: Installed) -> None:
    assert services.output(program, "--version") == f"{_project(_FOLDERS[name])['version']}\n"
    assert re.search(rf"Usage: {program} .*COMMAND", services.output(program, "--help"))
    told = f"import importlib.metadata as m; print(m.version({name!r}))"
    changed = next((services.root / "lib").glob(f"python*/site-packages/{name.replace('-', '_')}-*.dist-info/METADATA"))
    before = changed.read_text("utf-8")
    changed.write_text(re.sub(r"(?m)^Version: .*$", "Version: 9.8.7", before, count=1), "utf-8")
    try:
        assert services.output("python", "-c", told) == "9.8.7\n"
        assert services.output(program, "--version") == "9.8.7\n"
    finally:
        changed.write_text(before, "utf-8")


def test_a_service_checks_its_settings_without_a_checkout(services: Installed) -> None:
    assert "redis://127.0.0.1:1" in services.output("letta-bridge", "config", "redis", REDIS_URL="redis://127.0.0.1:1")
    wrong = services.run("letta-bridge", "run", LETTA_API_URL="no address")
    assert (wrong.returncode, "LETTA_API_URL" in wrong.stderr) == (2, True), wrong.stderr
    wrong = services.run("memory-python", "run", MEMORY_HTTP_PORT="none")
    assert (wrong.returncode, "MEMORY_HTTP_PORT" in wrong.stderr) == (2, True), wrong.stderr


def test_package_data_is_installed_and_works(services: Installed, redis_url: str, postgres_server: Postgres) -> None:
    """Every statement is in the SQL files, every table in the migrations; Redis gets the Lua scripts."""
    listed = services.output("python", "-m", "shared_utils.persistence.catalogue")
    assert listed == (CHECKOUT / "docs" / "sql.md").read_text("utf-8")
    postgres_server.create_database("wheels")
    database = postgres_server.url("wheels")
    services.output("letta-bridge", "migrate", DATABASE_URL=database)
    services.output("letta-bridge", "migrate", "--check", DATABASE_URL=database)
    assert "users" in services.output("memory-python", "stats", REDIS_URL=redis_url)
    services.output("letta-bridge", "lanes", REDIS_URL=redis_url)
    services.output("letta-bridge", "dead", "list", REDIS_URL=redis_url)


@pytest.mark.letta
def test_letta_server_runs_from_its_wheel(tmp_path: Path, wheels: Mapping[str, Path]) -> None:
    with missing_parts():
        python = letta_program().with_name("python")
    lock = CHECKOUT / "services/letta-server/requirements.lock"
    installed = _install(tmp_path, python, lock, wheels["letta-bridge-letta-server"], wheels["letta-bridge-common"])
    version = _project(_FOLDERS["letta-bridge-letta-server"])["version"]
    assert installed.output("letta-server", "version") == f"letta-server {version} (Letta 0.16.8)\n"
    assert "move" in installed.output("letta-server", "--help")
    refused = installed.run("letta-server", "check")
    assert refused.returncode == 2, refused.stderr
    assert "LETTA_PG_URI" in refused.stderr
