"""Former names of settings: they are read for one release, with a warning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from shared_utils.config.layout import Rename
from shared_utils.config.variables import Leaf
from shared_utils.errors import SettingsError

ENVIRONMENT: Final = "the environment"


@dataclass(frozen=True, slots=True)
class Deprecated:
    """A former name that the configuration uses."""

    old: str
    new: str
    source: str
    """The path of a file, or ``ENVIRONMENT``."""


def modernise(
    content: dict[str, Any], renames: Sequence[Rename], leaves: Iterable[Leaf], source: str
) -> list[tuple[Rename, Deprecated]]:
    """Rename former settings of a file in place; returns the former names.

    Args:
        content: the file's; its sections are JSON objects.
        renames: of sections that the caller reads.
        leaves: the settings that the caller reads, which say what their values mean.
        source: the file.

    Raises:
        SettingsError: a setting has different values under both names, or a former section has an unknown key.
    """
    found = []
    known = {leaf.path: leaf for leaf in leaves}
    for rename in renames:
        *sections, name = rename.old.split(".")
        holder = _holder(content, sections)
        if holder is None or name not in holder:
            continue
        value = holder.pop(name)
        *sections, name = rename.new.split(".")
        target = _holder(content, sections, make=True)
        if target is None:
            continue  # a section that is no JSON object is refused by name afterwards
        if name in target and not same(target[name], value, known.get(rename.new)):
            raise SettingsError(
                f"{source} gives {rename.new} and its former name {rename.old} different values; remove {rename.old}"
            )
        target.setdefault(name, value)
        found.append((rename, Deprecated(rename.old, rename.new, source)))
    return found


def same(one: Any, other: Any, leaf: Leaf | None) -> bool:
    """Whether two values of a setting mean the same: ``"30"`` and ``30.0`` do for a number, and not for a password.

    Args:
        one: as it was found.
        other: as it was found.
        leaf: the setting; None where another program reads it.
    """
    if leaf is None:
        return bool(one == other)
    one, other = leaf.tidied(one), leaf.tidied(other)
    if one == other:
        return True
    try:
        return bool(leaf.parsed(one) == leaf.parsed(other))
    except ValidationError:  # whichever counts is refused by name afterwards
        return False


def sentences(deprecated: Sequence[Deprecated]) -> Iterator[tuple[str, Mapping[str, str], str]]:
    """For each source: itself, its former names with the new ones, and a sentence for the operator."""
    for source in dict.fromkeys(one.source for one in deprecated):
        names = {one.old: one.new for one in deprecated if one.source == source}
        listed = ", ".join(f"{old} is {new} now" for old, new in names.items())
        yield source, names, f"{source} uses former names of settings, which the next release refuses: {listed}"


def log_deprecations(deprecated: Sequence[Deprecated], log: FilteringBoundLogger) -> None:
    """One line for each source that uses former names."""
    for source, names, sentence in sentences(deprecated):
        log.warning("settings_deprecated", source=source, names=dict(names), advice=sentence)


def _holder(content: dict[str, Any], sections: Sequence[str], *, make: bool = False) -> dict[str, Any] | None:
    holder: Any = content
    for section in sections:
        if isinstance(holder, dict) and make:
            holder.setdefault(section, {})
        holder = holder.get(section) if isinstance(holder, dict) else None
    return holder if isinstance(holder, dict) else None
