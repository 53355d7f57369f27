"""The parts of a release: one version everywhere, notes, wheels, and what the workflow tells docker and gh."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from local_stack.programs import CHECKOUT

_spec = importlib.util.spec_from_file_location("release", CHECKOUT / "deploy/release.py")
assert _spec is not None
assert _spec.loader is not None
release = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(release)

_NEW = "7.8.9"
_DAY = "2026-12-01"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout of only the files that have a version."""
    root = tmp_path / "copy"
    for path in [CHECKOUT / "pyproject.toml", CHECKOUT / "CHANGELOG.md", *_places()]:
        target = root / path.relative_to(CHECKOUT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return root


def _places() -> list[Path]:
    return [place.path for place in release.places(CHECKOUT)]


def test_this_checkout_has_one_version() -> None:
    release.check(CHECKOUT, None)


def test_every_file_with_a_version_is_known() -> None:
    """What a reader of the repository would look for: packages, and images by their tags."""
    pattern = r'^version = "|aivtuber/[a-z-]+:(\$\{AIVTUBER_TAG:-)?[0-9]'
    words = ["git", "grep", "-lE", pattern, "--", "*pyproject.toml", "*.yml", "*.yaml"]
    listed = subprocess.run(words, cwd=CHECKOUT, capture_output=True, check=True, text=True).stdout.splitlines()
    assert {CHECKOUT / name for name in listed} <= {*_places(), CHECKOUT / "pyproject.toml"}


def test_a_new_version_is_written_everywhere(copy: Path) -> None:
    before = release.version(copy)
    unreleased = release.notes(copy, "Unreleased")
    release.set_version(copy, _NEW, _DAY)
    release.check(copy, f"v{_NEW}")
    assert release.notes(copy, _NEW) == unreleased
    changed = [path for path, pattern, _ in release.places(copy) if pattern.search(path.read_text("utf-8"))]
    assert len(changed) > 10
    for path in changed:
        original = (CHECKOUT / path.relative_to(copy)).read_text("utf-8")
        assert path.read_text("utf-8").replace(_NEW, before) == original, "nothing else changes"
    once = (copy / "CHANGELOG.md").read_text("utf-8")
    assert once.index("## Unreleased") < once.index(f"## {_NEW} - {_DAY}")
    release.set_version(copy, _NEW, _DAY)
    assert (copy / "CHANGELOG.md").read_text("utf-8") == once


_VERSIONED = [
    str(place.path.relative_to(CHECKOUT))
    for place in release.places(CHECKOUT)
    if place.pattern.search(place.path.read_text("utf-8"))
]


@pytest.mark.parametrize("place", _VERSIONED)
def test_a_version_that_differs_is_found(place: str, copy: Path) -> None:
    file = copy / place
    [pattern] = [pattern for path, pattern, _ in release.places(copy) if path == file]
    text = pattern.sub(lambda match: f"{match[1]}0.0.1{match[3]}", file.read_text("utf-8"), count=1)
    file.write_text(text, "utf-8")
    with pytest.raises(release.Refused, match=re.escape(f"{place} has 0.0.1")):
        release.check(copy, None)


def test_a_tag_without_its_version_or_notes_is_refused(copy: Path) -> None:
    with pytest.raises(release.Refused, match="The tag is v0\\.0\\.9"):
        release.check(copy, "v0.0.9")
    empty = f"## {release.version(copy)} - 2026-01-01\n\n"
    (copy / "CHANGELOG.md").write_text(f"# Changelog\n\n## Unreleased\n\n{empty}## 0.0.9\n\n- old\n", "utf-8")
    with pytest.raises(release.Refused, match="no section '## "):
        release.check(copy, f"v{release.version(copy)}")
    assert release.notes(copy, "0.0.9") == "- old\n"
    (copy / "CHANGELOG.md").write_text("# Changelog\n", "utf-8")
    with pytest.raises(release.Refused, match="no heading"):
        release.set_version(copy, _NEW, _DAY)


@pytest.mark.parametrize("wrong", ["v1.2.3", "1.2", "", "1.2.3-beta"])
def test_what_is_no_version_is_refused(wrong: str, copy: Path) -> None:
    with pytest.raises(release.Refused, match=re.escape(f"'{wrong}' is no version")):
        release.set_version(copy, wrong, _DAY)


@pytest.mark.process
def test_the_command_says_a_refusal_in_one_line() -> None:
    words: list[str | Path] = [CHECKOUT / "run", "release", "check", "v0.0.0"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("release: The tag is v0.0.0, ")
    assert done.stderr.count("\n") == 1


@pytest.mark.integration
def test_wheels_are_built_with_their_sums(tmp_path: Path) -> None:
    subprocess.run([CHECKOUT / "run", "release", "wheels", tmp_path / "dist"], check=True, capture_output=True)
    built = sorted((tmp_path / "dist").glob("*.whl"))
    assert len(built) == len(release.WHEELS)
    sums = dict(line.split("  ")[::-1] for line in (tmp_path / "dist/SHA256SUMS").read_text("utf-8").splitlines())
    for wheel in built:
        assert wheel.name.split("-")[1] == release.version(CHECKOUT)
        assert sums[wheel.name] == hashlib.sha256(wheel.read_bytes()).hexdigest()
        with zipfile.ZipFile(wheel) as archive:
            assert archive.testzip() is None


Recorded = Callable[..., tuple[int, list[list[str]]]]


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    """`recorded(words, **variables)`: the exit code, and what docker and gh were told instead of being run."""
    log = tmp_path / "log"
    for name in ("docker", "gh"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        recording = f"printf '%s\\0' {name} \"$@\" >> {log}; echo >> {log}; cat >> {log}.input"
        text = f'{recording}\ntest "$2" != "${{FAIL:-none}}" || exit 4'
        program.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
        program.chmod(0o755)

    def run(words: list[str | Path], **variables: str) -> tuple[int, list[list[str]]]:
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **variables}
        done = subprocess.run(words, env=environment, capture_output=True, check=False, text=True, input="")
        said = log.read_text("utf-8").splitlines() if log.exists() else []
        return done.returncode, [line.split("\0")[:-1] for line in said]

    return run


@pytest.mark.process
@pytest.mark.parametrize("architecture", release.ARCHITECTURES)
def test_images_are_pushed_with_sbom_and_provenance(architecture: str, recorded: Recorded) -> None:
    words: list[str | Path] = [CHECKOUT / "run", "release", "images", architecture]
    assert recorded(words)[0] == 1, "no registry is named"
    code, calls = recorded(words, RELEASE_REGISTRY="images.example.com/")
    assert code == 0
    (create, *builds) = calls
    assert create[:3] == ["docker", "buildx", "create"]
    assert len(builds) == len(release.IMAGES)
    version = release.version(CHECKOUT)
    for build, (image, dockerfile) in zip(builds, release.IMAGES.items(), strict=True):
        given = {"--sbom=true", "--provenance=mode=max", "--push", f"linux/{architecture}"}
        assert given <= set(build)
        assert f"images.example.com/aivtuber/{image}:{version}-{architecture}" in build
        assert build[-2:] == [str(CHECKOUT / dockerfile), str(CHECKOUT)]
        assert (CHECKOUT / dockerfile).is_file()
    code, calls = recorded(words, RELEASE_REGISTRY="images.example.com", FAIL="create")
    assert (code, calls[-1]) == (4, create), "a failed program ends the step"


@pytest.mark.process
def test_the_images_of_all_architectures_get_one_name(recorded: Recorded) -> None:
    code, calls = recorded([CHECKOUT / "run", "release", "join"], RELEASE_REGISTRY="images.example.com")
    assert code == 0
    version = release.version(CHECKOUT)
    for call, image in zip(calls, release.IMAGES, strict=True):
        name = f"images.example.com/aivtuber/{image}:{version}"
        assert call == ["docker", "buildx", "imagetools", "create", "--tag", name, f"{name}-amd64", f"{name}-arm64"]


@pytest.mark.process
def test_compose_runs_the_images_that_are_released(recorded: Recorded, compose: Callable[..., Any]) -> None:
    services = compose("docker-compose.yml")["services"].values()
    own = {service["image"] for service in services if "build" in service}
    assert own == {f"aivtuber/{image}:{release.version(CHECKOUT)}" for image in release.IMAGES}
    builds = {service["build"]["dockerfile"] for service in services if "build" in service}
    assert builds == set(release.IMAGES.values())


def test_a_release_has_notes_and_files(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(release, "_run", lambda words: ran.append([str(word) for word in words]))
    release.set_version(copy, "7.8.9rc1", _DAY)
    dist = tmp_path / "dist"
    dist.mkdir()
    for name in ("a-7.whl", "SHA256SUMS"):
        (dist / name).write_text("", "utf-8")
    release.publish(copy, dist)
    [words] = ran
    assert words[:4] == ["gh", "release", "create", "v7.8.9rc1"]
    assert {"--verify-tag", "--prerelease", str(dist / "a-7.whl"), str(dist / "SHA256SUMS")} <= set(words)
    assert (dist / "notes.md").read_text("utf-8") == release.notes(copy, "7.8.9rc1")


@pytest.mark.process
def test_the_login_takes_its_password_from_no_argument(recorded: Recorded, tmp_path: Path) -> None:
    login: list[str | Path] = [CHECKOUT / ".ci/registry-login"]
    given: Mapping[str, str] = {"RELEASE_REGISTRY": "images.example.com", "RELEASE_REGISTRY_USER": "me"}
    code, calls = recorded(login, RELEASE_REGISTRY_PASSWORD="", **given)
    assert (code, calls) == (2, [])
    code, calls = recorded(login, RELEASE_REGISTRY_PASSWORD="secret", **given)
    assert (code, calls) == (0, [["docker", "login", "images.example.com", "--username", "me", "--password-stdin"]])
    assert (tmp_path / "log.input").read_text("utf-8") == "secret"


_FROM_SOURCE = {"demjson3"}  # pure Python; its source distribution is built on any machine


@pytest.mark.integration
@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
@pytest.mark.parametrize(
    "lock", [["requirements.lock"], ["services/letta-server/requirements.lock", "letta-bridge-letta-server"]]
)
def test_each_locked_package_has_a_wheel_for_both_architectures(lock: list[str], machine: str, tmp_path: Path) -> None:
    """Without one, an image of that architecture would need a compiler."""
    script = CHECKOUT / "deploy/lock_subset.py"
    roots = lock[1:] or ["letta-bridge", "letta-bridge-common", "letta-bridge-memory"]
    words: list[str | Path] = ["python3", script, CHECKOUT / lock[0], *roots]
    needed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    blocks = re.split(r"^(?=[a-z0-9])", needed, flags=re.MULTILINE)
    file = tmp_path / "needed.txt"
    file.write_text("".join(block for block in blocks if block.partition("==")[0] not in _FROM_SOURCE), "utf-8")
    platform = ["--python-platform", f"{machine}-manylinux_2_28", "--python-version", "3.11"]
    install: list[str | Path] = [CHECKOUT / ".tools/bin/uv", "pip", "install", "--dry-run", "--no-deps"]
    install += ["--only-binary", ":all:", "--require-hashes", *platform]
    done = subprocess.run(
        [*install, "--target", tmp_path / "target", "--requirement", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
