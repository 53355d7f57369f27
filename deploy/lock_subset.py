# ruff: noqa: INP001 - a script that images copy, not a package
"""Print the part of requirements.lock that some packages need, versions and hashes unchanged.

``python lock_subset.py requirements.lock letta-bridge letta-bridge-common`` prints every package that is in the lock
because of one of these, directly or through others, and these themselves where the lock pins them. The lock says so in
its ``# via`` lines; nothing is resolved and no index is asked, so an image gets the versions that were tested, and no
others. ``--without FILE`` leaves out the packages that are tables of that TOML file, and what only they need.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

_START: Final = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]*)==")
_VIA: Final = re.compile(r"\s+#(?:\s+via)?\s*(?P<parent>[a-z0-9][a-z0-9._-]*)?")


def subset(lock: str, roots: AbstractSet[str], without: AbstractSet[str] = frozenset()) -> str:
    """The lines of ``lock`` that ``roots`` need, apart from the packages ``without`` and what only those need.

    Raises:
        LookupError: the lock knows nothing of one of either.
    """
    blocks: dict[str, list[str]] = {}
    children: dict[str, set[str]] = {}
    name = ""
    for line in lock.splitlines():
        if start := _START.match(line):
            name = start["name"]
            blocks[name] = []
        if not name or line.startswith("#"):
            continue
        blocks[name].append(line)
        if (via := _VIA.match(line)) and via["parent"]:
            children.setdefault(via["parent"], set()).add(name)
    unknown = (roots | without) - blocks.keys() - children.keys()
    if unknown:
        raise LookupError(f"requirements.lock knows no {', '.join(sorted(unknown))}; run ./run lock")
    needed: set[str] = set()
    waiting = list(roots)
    while waiting:
        package = waiting.pop()
        if package not in needed and package not in without:
            needed.add(package)
            waiting += children.get(package, ())
    return "\n".join(line for package in sorted(needed & blocks.keys()) for line in blocks[package]) + "\n"


def main() -> None:
    """Read the lock named first, print what the packages named after it need."""
    parser = argparse.ArgumentParser(description="Print the part of a lock that some packages need.")
    parser.add_argument("lock", type=Path)
    parser.add_argument("roots", nargs="+", metavar="package")
    parser.add_argument("--without", type=Path, metavar="FILE", help="TOML file with a table for each package left out")
    given = parser.parse_args()
    without = tomllib.loads(given.without.read_text("utf-8")).keys() if given.without else frozenset()
    try:
        sys.stdout.write(subset(given.lock.read_text("utf-8"), set(given.roots), without))
    except LookupError as error:
        sys.exit(f"lock_subset.py: {error}")


if __name__ == "__main__":
    main()
