"""Every link of a document leads somewhere: to a file of the repository, and to a heading that it has."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
LISTED = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
DOCUMENTS = sorted(ROOT / name for name in LISTED.split("\0") if name)
FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def prose(document: Any) -> Any:
    """The text without blocks and pieces of code."""
    return re.sub(r"`[^`\n]+`", "", FENCED.sub("", document.read_text(encoding="utf-8")))


@cache
def anchors(document: Any) -> Any:
    """What a link to a heading may be, as GitHub and others make it from the heading's words."""
    found = set()
    for heading in HEADING.findall(FENCED.sub("", document.read_text(encoding="utf-8"))):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (numbered := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(numbered)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Any) -> None:
    broken = []
    for link in LINK.findall(prose(document)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_headings_become_anchors_as_on_github() -> None:
    assert "move-uploads-into-their-users-folders" in anchors(ROOT / "docs" / "operations.md")
