"""shared_utils knows none of its users: no service, command, file or variable of theirs is named in it."""

from __future__ import annotations

import re
from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared_utils" / "src" / "shared_utils"
WORDS = re.compile("letta_bridge|letta-bridge(?!-common)|LETTA_BRIDGE|memory-python|memory_service")
MAY_NAME_THEM = {
    "contracts/": "what the services have agreed on, on the wire",
    "persistence/migrations/": "applied migrations are compared by their checksums",
    "persistence/installed_names.py": "names in databases and between releases, which have to stay",
}


def test_shared_utils_names_none_of_its_users() -> None:
    named = {}
    for path in sorted(SHARED.rglob("*")):
        place = path.relative_to(SHARED).as_posix()
        if path.suffix in {".py", ".sql", ".lua"} and not place.startswith(tuple(MAY_NAME_THEM)):
            lines = path.read_text(encoding="utf-8").splitlines()
            if found := [line.strip() for line in lines if WORDS.search(line)]:
                named[place] = found
    assert named == {}


def test_every_exception_is_needed() -> None:
    for place in MAY_NAME_THEM:
        files = [SHARED / place] if place.endswith(".py") else (SHARED / place).rglob("*.*")
        assert any(WORDS.search(path.read_text(encoding="utf-8")) for path in files if path.suffix in {".py", ".sql"})
