"""The Dockerfiles: linted, and as an operator needs them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_SERVICES = ("letta-bridge-python", "memory-python", "scripted-model", "letta-server")

Dockerfile = Callable[[str], list[tuple[str, str]]]


@pytest.mark.parametrize("service", _SERVICES)
def test_hadolint_accepts_each_dockerfile(service: str, dockerfile_path: Callable[[str], Path]) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    command: list[str | Path] = [hadolint, "--failure-threshold", "style", dockerfile_path(service)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("service", _SERVICES)
def test_runs_one_process_without_privileges(service: str, dockerfile: Dockerfile) -> None:
    found = dockerfile(service)
    words = [word for word, _ in found]
    assert [rest for word, rest in found if word == "FROM"][-1].endswith(" AS service")
    assert dict(found)["USER"] == "10001:10001"
    assert words.index("USER") < words.index("HEALTHCHECK") < words.index("ENTRYPOINT")
    for word, rest in found:
        if word in {"ENTRYPOINT", "CMD"}:
            assert isinstance(json.loads(rest), list), "a shell in between would keep signals to itself"
    check = dict(found)["HEALTHCHECK"]
    assert check.partition(" CMD ")[2].startswith('["python", "/opt/healthcheck.py", "http://127.0.0.1:')


@pytest.mark.parametrize("service", _SERVICES)
def test_is_multi_stage_pinned_and_locked(service: str, dockerfile: Dockerfile, checkout: Path) -> None:
    found = dockerfile(service)
    stages = [rest.partition(" AS ") for word, rest in found if word == "FROM"]
    [base] = {base for base, _, _ in stages if base not in {name for _, _, name in stages}}
    registry = "${IMAGE_REGISTRY:+$IMAGE_REGISTRY/library/}"
    assert re.fullmatch(rf"{re.escape(registry)}python:3\.\d+\.\d+-slim-\w+", base)
    assert {"build", "service"} <= {name for _, _, name in stages}
    runs = [rest for word, rest in found if word == "RUN"]
    version = re.search(r"UV_VERSION=(\S+)", (checkout / "run").read_text("utf-8"))
    assert version
    authorities = "--mount=type=secret,id=build_ca"
    assert f"{authorities} fetch pip install --no-cache-dir uv=={version[1]}" in runs
    for run in runs:
        for command in re.findall(r"(?:fetch )?uv pip (?:sync|install).*", run):
            if "--offline --no-deps" not in command:
                assert command.startswith("fetch uv pip sync --require-hashes")
                assert authorities in run
    words = [word for word, _ in found]
    assert words.index("ARG") < words.index("FROM") < found.index(("ARG", "PYTHON_INDEX"))


@pytest.mark.parametrize("service", _SERVICES)
def test_copies_packages_before_sources(service: str, dockerfile: Dockerfile) -> None:
    steps = [f"{word} {rest}" for word, rest in dockerfile(service)]
    locked = next(index for index, step in enumerate(steps) if "uv pip sync" in step)
    sources = next(
        index
        for index, step in enumerate(steps)
        if re.match(r"COPY (shared_utils|(clients|services|tools)/[\w-]+) ", step)
    )
    assert locked < sources, "a changed source must not install the packages again"


def test_the_context_holds_no_secrets_and_no_data(checkout: Path) -> None:
    lines = [line for line in (checkout / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert allowed == {
        "config.json",
        "requirements.lock",
        "deploy/fetch",
        "deploy/healthcheck.py",
        "deploy/lock_subset.py",
        "shared_utils",
        "clients/python",
        "services",
        "tools/scripted-model",
        "**/README.md",  # a package is not built without its readme
    }
    assert {"**/tests", "**/.venv", "**/.env*"} <= set(lines)


@pytest.mark.parametrize("service", _SERVICES)
def test_dockerfile_copies_only_files_of_the_context(service: str, dockerfile: Dockerfile, checkout: Path) -> None:
    for word, rest in dockerfile(service):
        if word == "COPY" and not rest.startswith("--from="):
            for source in [word for word in rest.split()[:-1] if not word.startswith("--chmod=")]:
                assert (checkout / source).exists()
                assert source.split("/")[0] in {
                    "config.json",
                    "requirements.lock",
                    "deploy",
                    "clients",
                    "shared_utils",
                    "services",
                    "tools",
                }
