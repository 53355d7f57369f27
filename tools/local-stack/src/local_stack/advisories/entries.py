"""Reads `advisories.toml` and the locks."""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from packaging.version import Version
from pydantic import BaseModel, ConfigDict, Field

LOCKS: Final = ("requirements.lock", "services/letta-server/requirements.lock")
"""Of the workspace, and of letta-server."""
LETTAS_LOCK: Final = LOCKS[1]
_LIST: Final = "services/letta-server/advisories.toml"
_PIN: Final = re.compile(r"^([a-z0-9.-]+)==([^\s;]+)", re.MULTILINE)

AdvisoryId = Annotated[str, Field(pattern=r"^(CVE-\d{4}-\d{4,}|GHSA(-[a-z0-9]{4}){3}|PYSEC-\d{4}-\d+)$")]
Source = Annotated[str, Field(pattern=r"^https://[^\s]+$")]
"""The page on which the advisory was read."""
TestId = Annotated[str, Field(pattern=r"^\S+\.py::test_\w+$")]
_Text = Annotated[str, Field(min_length=1)]


class Justification(StrEnum):
    """Why a product is not affected, in the words of the VEX standard."""

    COMPONENT_NOT_PRESENT = "component_not_present"
    CODE_NOT_PRESENT = "vulnerable_code_not_present"
    CODE_NOT_IN_EXECUTE_PATH = "vulnerable_code_not_in_execute_path"
    CODE_NOT_CONTROLLED = "vulnerable_code_cannot_be_controlled_by_adversary"
    MITIGATED = "inline_mitigations_already_exist"


class Status(StrEnum):
    """Whether an exploit succeeds."""

    NOT_AFFECTED = "not_affected"
    AFFECTED = "affected"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Revision(_Entry):
    """Of the VEX statement."""

    number: int
    date: dt.date
    summary: _Text


class Control(_Entry):
    """A release with an advisory that the OSV database has for certain."""

    package: str
    version: str
    id: AdvisoryId


class LettaEntry(_Entry):
    """A vulnerability of Letta itself, under default settings and with the whole API."""

    id: AdvisoryId
    aliases: tuple[AdvisoryId, ...] = ()
    title: _Text
    title_zh: _Text
    record: _Text
    record_zh: _Text
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    justification: Justification
    why: _Text
    why_zh: _Text
    tests: Annotated[tuple[TestId, ...], Field(min_length=1)]
    full_api_status: Status
    full_api: _Text
    full_api_zh: _Text
    full_api_tests: tuple[TestId, ...]


class FixedEntry(_Entry):
    """Advisories without which ``version`` and later releases are."""

    package: str
    version: str
    ids: Annotated[tuple[AdvisoryId, ...], Field(min_length=1)]
    source: Source


class UnfixedEntry(_Entry):
    """Advisories of a package that cannot be raised past them."""

    package: str
    version: str | None = None
    ids: Annotated[tuple[AdvisoryId, ...], Field(min_length=1)]
    source: Source
    reason: _Text
    reason_zh: _Text
    reach: _Text
    reach_zh: _Text
    justification: Justification


class Advisories(_Entry):
    """The whole list."""

    looked_up: dt.date
    revisions: Annotated[tuple[Revision, ...], Field(min_length=1)]
    control: Control
    letta: Annotated[tuple[LettaEntry, ...], Field(min_length=1)]
    fixed: Annotated[tuple[FixedEntry, ...], Field(min_length=1)]
    unfixed: tuple[UnfixedEntry, ...] = ()


def read(checkout: Path) -> Advisories:
    """The list of a checkout.

    Raises:
        pydantic.ValidationError: an entry is not of the list's form.
    """
    return Advisories.model_validate(tomllib.loads((checkout / _LIST).read_text("utf-8")))


def locked(checkout: Path, lock: str) -> dict[str, list[Version]]:
    """Package → versions; several if the environment decides."""
    found: dict[str, list[Version]] = {}
    for name, version in _PIN.findall((checkout / lock).read_text("utf-8")):
        found.setdefault(name, []).append(Version(version))
    return found
