"""A program's declaration of its configuration: sections, variables, and renamed settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rename:
    """A setting that has a new name. The old one is read for one release more, and the log says so."""

    old: str
    """Dotted path, and so its variable by path."""
    new: str
    """Dotted path."""
    old_variables: tuple[str, ...] = ()
    """Former short variables; those that are still its own are not listed."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The configuration file and the environment variables of a program.

    Without a prefix, settings have their short variables only, and no variable is refused.
    """

    prefix: str = ""
    """Prefix of every setting's variable by path. It is exclusive: an unknown variable with it is an error."""
    sections: frozenset[str] = frozenset()
    """Every section the file may have; a program reads its own and leaves the others to their programs."""
    former_sections: frozenset[str] = frozenset()
    """Sections of the last release, all of whose settings have moved."""
    short_beginnings: tuple[str, ...] = ()
    """Prefixes of the short variables. Other programs use them, too, so only a similar name is an error."""
    foreign_beginnings: tuple[str, ...] = ()
    """Prefixes of variables of other programs in the same environment."""
    renames: tuple[Rename, ...] = ()
    """Of the sections this program reads."""

    @property
    def config_variable(self) -> str:
        """Names the configuration file; read before any setting. Empty where there is none."""
        return f"{self.prefix}CONFIG" if self.prefix else ""

    def by_path(self, path: str) -> tuple[str, ...]:
        """The variable by a setting's path."""
        return (self.prefix + path.replace(".", "_").upper(),) if self.prefix else ()

    def moved(self, name: str) -> Mapping[str, str]:
        """Former name → path of each setting that once had this name, lay in this section, or had this variable."""
        found = {rename.old: rename.new for rename in self.renames if f"{rename.old}.".startswith(f"{name}.")}
        paths = {variable: path for path, former in self.former.items() for variable in former}
        return found or ({name: paths[name]} if name in paths else {})

    @property
    def former(self) -> Mapping[str, tuple[str, ...]]:
        """Path of a setting → its former variables, the ones by path first."""
        found: dict[str, tuple[str, ...]] = defaultdict(tuple)
        for rename in self.renames:
            found[rename.new] += (*self.by_path(rename.old), *rename.old_variables)
        return found
