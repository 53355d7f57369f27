"""Package indexes and certificate authorities of an operator's own, for the images and for ./run, on loopback."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from local_stack.fixtures import missing_parts
from local_stack.ports import HOST
from local_stack.programs import CHECKOUT
from local_stack.tls import make_certificates

_WHEEL = "tiny_package-1.0-py3-none-any.whl"
_UV = CHECKOUT / ".tools/bin/uv"
_PIP = CHECKOUT / ".tools/bin/python"


@dataclass
class Index:
    """A package index behind TLS of an authority that nobody knows."""

    url: str
    authority: Path
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """Offers one package, `tiny-package`."""
    with missing_parts():
        made = make_certificates(tmp_path)
    wheel = tmp_path / _WHEEL
    information = {
        "METADATA": "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_package.py", "")
        for name, text in information.items():
            archive.writestr(f"tiny_package-1.0.dist-info/{name}", text)
    answers = {
        "/simple/tiny-package/": f'<!DOCTYPE html><a href="/{_WHEEL}">{_WHEEL}</a>'.encode(),
        f"/{_WHEEL}": wheel.read_bytes(),
    }
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer = answers.get(self.path)
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/zip")
            self.send_header("Content-Length", str(len(answer or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(answer or b"")

        def do_HEAD(self) -> None:  # uv asks what the server can do
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((HOST, 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Index(f"https://{HOST}:{server.server_port}/simple", made.authority, asked)
    finally:
        server.shutdown()
        server.server_close()


def _environment(**more: str | Path) -> dict[str, str]:
    """This process's, without what it says of indexes and authorities."""
    ours = ("PIP_", "UV_", "SSL_CERT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        kept.pop(name, None)
    nothing = {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "UV_NO_CONFIG": "1"}
    return kept | nothing | {"NO_PROXY": HOST, "no_proxy": HOST} | {name: str(value) for name, value in more.items()}


def _installers(target: Path) -> dict[str, list[str | Path]]:
    return {
        "pip": [_PIP, "-m", "pip", "install", "--retries", "0", "--no-cache-dir", "--target", target, "tiny-package"],
        "uv": [_UV, "pip", "install", "--no-cache", "--target", target, "tiny-package"],
    }


@pytest.mark.process
@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_a_build_takes_packages_from_the_index_and_trusts_the_authority(
    installer: str, index: Index, tmp_path: Path
) -> None:
    words: list[str | Path] = [CHECKOUT / "deploy/fetch", *_installers(tmp_path / "target")[installer]]
    refused = subprocess.run(words, env=_environment(PYTHON_INDEX=index.url), capture_output=True, check=False)
    assert refused.returncode != 0
    assert index.asked == []
    environment = _environment(PYTHON_INDEX=index.url, BUILD_CA=index.authority, TMPDIR=tmp_path)
    (tmp_path / "target").mkdir(exist_ok=True)
    before = set(tmp_path.iterdir())
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "target/tiny_package.py").exists()
    assert f"/{_WHEEL}" in index.asked
    assert set(tmp_path.iterdir()) == before, "the authorities' file is removed"


@pytest.mark.process
def test_without_settings_a_step_of_a_build_runs_as_it_is(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()  # compose mounts an empty secret where no authority is set
    environment = _environment(PYTHON_INDEX="", BUILD_CA=empty)
    words: list[str | Path] = [CHECKOUT / "deploy/fetch", "env"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert not names & {"PIP_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_CERT", "SSL_CERT_FILE"}
    failed = subprocess.run([CHECKOUT / "deploy/fetch", "sh", "-c", "exit 3"], env=environment, check=False)
    assert failed.returncode == 3


Handed = Callable[..., dict[str, str]]


@pytest.fixture
def handed(tmp_path: Path) -> Handed:
    """`handed(environment)`: the environment in which ./run, of a copy of the checkout, lets uv install packages."""
    copy = tmp_path / "copy"
    projects = [*CHECKOUT.glob("*/pyproject.toml"), *CHECKOUT.glob("*/*/pyproject.toml")]
    for source in [CHECKOUT / "run", CHECKOUT / "requirements.lock", *projects]:
        target = copy / source.relative_to(CHECKOUT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    seen = tmp_path / "environment"
    programs = {
        ".tools/bin/uv": f'[ "$1" != --version ] || exec {_UV} --version\nenv > {seen}\nexit 3',
        ".tools/bin/python": f'exec {_PIP} "$@"',
        ".venv/bin/python": "exit 0",
    }
    for name, text in programs.items():
        program = copy / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
        program.chmod(0o755)

    def run(environment: Mapping[str, str]) -> dict[str, str]:
        done = subprocess.run([copy / "run", "lint"], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 3, done.stderr
        return dict(line.split("=", 1) for line in seen.read_text("utf-8").splitlines() if "=" in line)

    return run


def _pip_conf(folder: Path, index: Index) -> Path:
    file = folder / "pip.conf"
    file.write_text(f"[global]\nindex-url = {index.url}\ncert = {index.authority}\nproxy = http://{HOST}:1\n", "utf-8")
    return file


@pytest.mark.process
def test_uv_installs_from_the_index_of_pips_file(index: Index, handed: Handed, tmp_path: Path) -> None:
    environment = _environment(PIP_CONFIG_FILE=_pip_conf(tmp_path, index), HOME=tmp_path)
    given = handed(environment)
    assert given["UV_DEFAULT_INDEX"] == index.url
    assert given["SSL_CERT_FILE"] == str(index.authority)
    assert given["ALL_PROXY"] == f"http://{HOST}:1"
    done = subprocess.run(
        _installers(tmp_path / "target")["uv"], env=given, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "target/tiny_package.py").exists()


@pytest.mark.process
def test_pips_variables_come_before_its_files(index: Index, handed: Handed, tmp_path: Path) -> None:
    file = _pip_conf(tmp_path, index)
    variables = {"PIP_INDEX_URL": "https://127.0.0.1:1/simple", "PIP_CERT": "/their/authorities.pem"}
    given = handed(_environment(PIP_CONFIG_FILE=file, HOME=tmp_path, **variables))
    assert (given["UV_DEFAULT_INDEX"], given["SSL_CERT_FILE"]) == tuple(variables.values())


@pytest.mark.process
def test_settings_of_uvs_own_stay(index: Index, handed: Handed, tmp_path: Path) -> None:
    own = {"UV_DEFAULT_INDEX": "https://127.0.0.1:2/simple", "SSL_CERT_FILE": "/mine.pem", "HTTPS_PROXY": "http://me"}
    given = handed(_environment(PIP_CONFIG_FILE=_pip_conf(tmp_path, index), HOME=tmp_path, **own))
    assert own.items() <= given.items()
    assert "ALL_PROXY" not in given
    file = tmp_path / ".config/uv/uv.toml"
    file.parent.mkdir(parents=True)
    file.write_text("", "utf-8")
    given = handed(_environment(PIP_CONFIG_FILE=_pip_conf(tmp_path, index), HOME=tmp_path, XDG_CONFIG_HOME=""))
    assert "UV_DEFAULT_INDEX" not in given


def test_no_lock_or_deployment_file_names_a_registry_of_images_or_packages() -> None:
    """An operator's mirror is the operator's business; without one, engine, pip and uv ask where they always ask."""
    deployed = [*CHECKOUT.glob("docker-compose*.yml"), *(CHECKOUT / "deploy").rglob("*.y*ml")]
    for file in deployed:
        for image in re.findall(r"(?m)^\s*image: (\S+)$", file.read_text("utf-8")):
            name = image.replace("${IMAGE_REGISTRY:+${IMAGE_REGISTRY:-}/}", "")
            assert "." not in name.partition("/")[0], f"{file}: {image}"
    for lock in ("requirements.lock", "services/letta-server/requirements.lock"):
        assert "://" not in (CHECKOUT / lock).read_text("utf-8")
