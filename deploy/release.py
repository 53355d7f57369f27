# ruff: noqa: INP001, T201 - a script for releases, not a package
"""Everything that a release is made of; .github/workflows/release.yml runs one command after the other.

The version stands in the root's pyproject.toml. ``set`` writes it everywhere else, and ``check`` compares: packages,
tags of compose and Kubernetes files, CHANGELOG.md. ``notes`` prints the version's section of the changelog, ``wheels``
builds what is installed without containers, ``images`` builds and pushes for one architecture, ``join`` makes one name
of the images of both, ``publish`` makes the release with notes and wheels.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
IMAGES: Final = {
    "letta-bridge": "services/letta-bridge-python/Dockerfile",
    "letta-server": "services/letta-server/Dockerfile",
    "memory-python": "services/memory-python/Dockerfile",
}
"""Image → its Dockerfile; the build's context is the root."""
WHEELS: Final = (
    "shared_utils",
    "clients/python",
    "services/letta-bridge-python",
    "services/letta-server",
    "services/memory-python",
)
ARCHITECTURES: Final = ("amd64", "arm64")
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")
_PROJECT: Final = re.compile(r'(?m)^(version = ")([^"]+)(")$')
_TAG: Final = re.compile(r"(\$\{AIVTUBER_TAG:-|#AIVTUBER_TAG=|image: aivtuber/[a-z-]+:)(\d[\w.]*)()")


class Refused(Exception):
    """The message is one sentence for whoever makes the release."""


class Place(NamedTuple):
    """A file, the pattern of its versions (before, version, after), and whether it has to have one."""

    path: Path
    pattern: re.Pattern[str]
    required: bool


def places(root: Path) -> Iterator[Place]:
    """Where the version stands besides the root's pyproject.toml."""
    for pattern in ("*/pyproject.toml", "*/*/pyproject.toml"):
        for path in sorted(root.glob(pattern)):
            if not any(part.startswith(".") for part in path.relative_to(root).parts):
                yield Place(path, _PROJECT, required=True)
    yield Place(root / "docker-compose.yml", _TAG, required=True)
    for path in sorted([*root.glob("docker-compose.*.yml"), *root.glob("deploy/*.yml"), root / ".env.example"]):
        yield Place(path, _TAG, required=False)
    for path in sorted(root.glob("deploy/kubernetes/*.yaml")):
        yield Place(path, _TAG, required=False)


def version(root: Path) -> str:
    """The version of this checkout."""
    return str(tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"])


def notes(root: Path, wanted: str) -> str:
    """The changelog's section of a version, without its heading.

    Raises:
        Refused: there is none, or it is empty.
    """
    text = (root / "CHANGELOG.md").read_text("utf-8")
    found = re.search(rf"(?ms)^## {re.escape(wanted)}(?: - [\d-]+)?$\n(.*?)(?=^## |\Z)", text)
    if found is None or not found[1].strip():
        raise Refused(f"CHANGELOG.md has no section '## {wanted}' with text; run deploy/release.py set {wanted}.")
    return found[1].strip() + "\n"


def check(root: Path, tag: str | None) -> None:
    """Compare every place with the version, and with a tag about to be released.

    Raises:
        Refused: one differs.
    """
    wanted = version(root)
    for path, pattern, required in places(root):
        found = {match[2] for match in pattern.finditer(path.read_text("utf-8"))}
        if found - {wanted} or (required and not found):
            said = ", ".join(sorted(found)) or "no version"
            raise Refused(
                f"{path.relative_to(root)} has {said}, but pyproject.toml {wanted}; run deploy/release.py set {wanted}."
            )
    if tag is not None:
        if tag != f"v{wanted}":
            raise Refused(f"The tag is {tag}, but the version {wanted}: tag the commit that sets the version.")
        notes(root, wanted)


def set_version(root: Path, wanted: str, day: str) -> None:
    """Write the version everywhere, and name what is unreleased in the changelog after it.

    Raises:
        Refused: it is no version, or nothing is unreleased.
    """
    if not _VERSION.fullmatch(wanted):
        raise Refused(f"'{wanted}' is no version such as 1.2.3 or 1.2.3rc1.")
    changelog = root / "CHANGELOG.md"
    text = changelog.read_text("utf-8")
    heading = f"## {wanted} - {day}"
    if not re.search(rf"(?m)^## {re.escape(wanted)}\b", text):
        changed, count = re.subn(r"(?m)^## Unreleased$", f"## Unreleased\n\n{heading}", text, count=1)
        if not count:
            raise Refused("CHANGELOG.md has no heading '## Unreleased', so the new version's changes are not known.")
        changelog.write_text(changed, "utf-8")
    for path, pattern, _ in [Place(root / "pyproject.toml", _PROJECT, required=True), *places(root)]:
        text = path.read_text("utf-8")
        changed = pattern.sub(lambda match: f"{match[1]}{wanted}{match[3]}", text)
        if changed != text:
            path.write_text(changed, "utf-8")


def wheels(root: Path, folder: Path) -> None:
    """Build every distribution into an empty folder, and a file of their SHA-256 sums beside them."""
    uv = root / ".tools/bin/uv"
    for project in WHEELS:
        _run([uv, "build", "--quiet", "--wheel", "--offline", "--out-dir", folder, root / project])
    built = sorted(folder.glob("*.whl"))
    sums = [f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}\n" for wheel in built]
    (folder / "SHA256SUMS").write_text("".join(sums), "utf-8")


def images(root: Path, registry: str, architecture: str) -> None:
    """Build and push each image for one architecture, with its list of packages (SBOM) and provenance."""
    released = version(root)
    builder = f"release-{architecture}"
    # Attestations need BuildKit in a container of its own: the engine's builder keeps none.
    _run(["docker", "buildx", "create", "--name", builder, "--driver", "docker-container"])
    for image, dockerfile in IMAGES.items():
        words: list[str | Path] = ["docker", "buildx", "build", "--builder", builder]
        words += ["--platform", f"linux/{architecture}", "--sbom=true", "--provenance=mode=max", "--push"]
        words += ["--label", f"org.opencontainers.image.version={released}"]
        words += ["--tag", f"{registry}/aivtuber/{image}:{released}-{architecture}"]
        _run([*words, "--file", root / dockerfile, root])


def join(root: Path, registry: str) -> None:
    """Give the images of all architectures one name; attestations stay with each."""
    released = version(root)
    for image in IMAGES:
        name = f"{registry}/aivtuber/{image}:{released}"
        parts = [f"{name}-{architecture}" for architecture in ARCHITECTURES]
        _run(["docker", "buildx", "imagetools", "create", "--tag", name, *parts])


def publish(root: Path, folder: Path) -> None:
    """Make the release of the tag: the changelog's section, the wheels and their sums."""
    released = version(root)
    text = folder / "notes.md"
    text.write_text(notes(root, released), "utf-8")
    files = sorted([*folder.glob("*.whl"), folder / "SHA256SUMS"])
    options = ["--verify-tag", "--title", released, "--notes-file", text]
    if not re.fullmatch(r"[\d.]+", released):
        options.append("--prerelease")
    _run(["gh", "release", "create", f"v{released}", *options, *files])


def _run(words: Sequence[str | Path]) -> None:
    print("+", *words, file=sys.stderr, flush=True)
    subprocess.run(words, check=True)  # noqa: S603 - the commands above


def _registry() -> str:
    registry = os.environ.get("RELEASE_REGISTRY", "").rstrip("/")
    if not registry:
        raise Refused("RELEASE_REGISTRY is not set: it names the registry to push to, such as images.example.com.")
    return registry


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deploy/release.py", description="Make a release, or a part of one.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("check", help="is the version the same everywhere?").add_argument("tag", nargs="?")
    commands.add_parser("set", help="write a new version everywhere").add_argument("version")
    commands.add_parser("notes", help="print the changelog's section of the version")
    commands.add_parser("wheels", help="build the wheels into a folder").add_argument("folder", type=Path)
    commands.add_parser("images", help="build and push for one architecture").add_argument(
        "architecture", choices=ARCHITECTURES
    )
    commands.add_parser("join", help="one name for the images of all architectures")
    commands.add_parser("publish", help="make the release with a folder of wheels").add_argument("folder", type=Path)
    return parser


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run one command. 0: done; 1: refused, with a sentence; otherwise, the exit code of the program that failed."""
    given = _parser().parse_args(arguments)
    try:
        match given.command:
            case "check":
                check(root, given.tag)
            case "set":
                set_version(root, given.version, datetime.now(tz=UTC).date().isoformat())
            case "notes":
                print(notes(root, version(root)), end="")
            case "wheels":
                wheels(root, given.folder)
            case "images":
                images(root, _registry(), given.architecture)
            case "join":
                join(root, _registry())
            case "publish":
                publish(root, given.folder)
    except Refused as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
