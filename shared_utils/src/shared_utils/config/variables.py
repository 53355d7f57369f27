"""Maps environment variables to settings, and finds misspelt ones.

Where the program has a prefix, every setting has a variable by its path, ``PREFIX_QUEUE_LEASE_SECONDS`` for
``queue.lease_seconds``; many have a short one too.
``NAME_FILE`` names a file that holds the value of ``NAME``.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel, SecretStr, TypeAdapter
from pydantic.fields import FieldInfo

from shared_utils.config.layout import Layout
from shared_utils.config.values import is_service_port, trimmed, unquoted
from shared_utils.errors import SettingsError

_KUBERNETES: Final = re.compile(
    r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?)=|\w+_PORT=(tcp|udp)://"
)
"""Variables that Kubernetes sets for every service of the namespace, whose name may equal the prefix."""

_SIMILARITY_CUTOFF: Final = 0.87
_FILE_SUFFIX: Final = "_FILE"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting of a model."""

    path: str
    """Dotted: ``letta.breaker.failures``."""
    field: FieldInfo

    @property
    def short_variables(self) -> tuple[str, ...]:
        """Its environment variables besides the one by its path."""
        return tuple(self._extra("env", ()))

    def variables(self, layout: Layout) -> tuple[str, ...]:
        """Its environment variables; the first that is set wins. The one by its path comes first."""
        return (*layout.by_path(self.path), *self.short_variables)

    @property
    def reloadable(self) -> bool:
        """Whether a running service takes a new value over on SIGHUP."""
        return bool(self._extra("reload", False))

    @property
    def secret(self) -> bool:
        """Whether its value is never shown."""
        return SecretStr in _parts(self.field.annotation)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words it, or each value of its table, may be; empty where it may be any."""
        return tuple(part for part in _parts(self.field.annotation) if isinstance(part, str))

    @property
    def table(self) -> bool:
        """Whether its value is a JSON object, from a variable too."""
        return get_origin(self.field.annotation) is dict

    def tidied(self, value: Any) -> Any:
        """A text, or a table of texts, in the form in which it can only be meant; another value as it is."""
        if isinstance(value, str):
            return self._word(trimmed(value, keep_spaces=self.secret))
        if isinstance(value, dict) and self.choices:
            return {
                key: self._word(trimmed(entry)) if isinstance(entry, str) else entry for key, entry in value.items()
            }
        return value

    def parsed(self, value: Any) -> Any:
        """The value as the settings hold it.

        Raises:
            ValidationError: it is none of this setting.
        """
        kind: Any = Annotated[self.field.annotation, self.field]
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        return adapter.validate_python(value)

    def _word(self, text: str) -> str:
        """The choice that is meant, in whatever case it is written; other texts as they are."""
        return next((choice for choice in self.choices if choice.lower() == text.lower()), text)

    def _extra(self, key: str, default: Any) -> Any:
        extra = self.field.json_schema_extra
        return extra.get(key, default) if isinstance(extra, dict) else default


def _parts(annotation: Any) -> Iterator[Any]:
    """A type and what it is made of, down to the words of a ``Literal``."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def sections(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The fields of a model that are models themselves."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation


def leaves(model: type[BaseModel], at: str = "") -> Iterator[Leaf]:
    """Every setting of a model, in the order of its definition."""
    inner = dict(sections(model))
    for name, field in model.model_fields.items():
        if name in inner:
            yield from leaves(inner[name], f"{at}{name}.")
        else:
            yield Leaf(f"{at}{name}", field)


def given(leaf: Leaf, names: Iterable[str], environ: Mapping[str, str]) -> tuple[Any, str] | None:
    """The value and variable of a setting in the environment; empty values count as unset.

    So does ``REDIS_PORT`` if Kubernetes set it for a service named redis.

    Args:
        leaf: the setting.
        names: of variables; the first that is set counts.
        environ: the environment.

    Raises:
        SettingsError: the file a variable names cannot be read, or holds an empty secret; a table's value is no JSON.
    """
    for name in names:
        found = _read(name, environ, secret=leaf.secret)
        if found is not None and not is_service_port(name, found[0]):
            text, source = found
            return (_table(text, source) if leaf.table else text), source
    return None


def successor(leaf: Leaf, layout: Layout, former: str) -> str:
    """The variable to use instead of a former one: a short one for a short one, a file for a file."""
    name = former.removesuffix(_FILE_SUFFIX) if former.endswith(_FILE_SUFFIX) else former
    file = former[len(name) :]
    names = (
        leaf.variables(layout) if name.startswith(layout.prefix) else (*leaf.short_variables, *leaf.variables(layout))
    )
    return names[0] + file


def refuse_unknown(environ: Mapping[str, str], model: type[BaseModel], layout: Layout) -> None:
    """Refuse a variable with this project's prefix that names no setting.

    Args:
        environ: the environment.
        model: the settings of one program.
        layout: its own; variables of a section that ``model`` lacks, or of which it reads a part, are left to their
            program.

    Raises:
        SettingsError: names the variable, and the nearest right one.
    """
    if not layout.prefix:
        return
    current = {name for leaf in leaves(model) for name in leaf.variables(layout)} | {layout.config_variable}
    former = {
        name: successor(leaf, layout, name) for leaf in leaves(model) for name in layout.former.get(leaf.path, ())
    }
    known = current | former.keys()
    whole = {name for name, section in sections(model) if section.model_config.get("extra") != "ignore"}
    whole |= {rename.old.partition(".")[0] for rename in layout.renames}
    foreign = tuple(
        f"{layout.prefix}{section.upper()}_" for section in (layout.sections | layout.former_sections) - whole
    )
    for name in sorted(environ):
        if name in known or name.removesuffix(_FILE_SUFFIX) in known:
            continue
        if not name.startswith((layout.prefix, *layout.short_beginnings)):
            continue
        if name.startswith((*foreign, *layout.foreign_beginnings)) or _KUBERNETES.match(f"{name}={environ[name]}"):
            continue
        file = _FILE_SUFFIX if name.endswith(_FILE_SUFFIX) else ""
        written = name.removesuffix(_FILE_SUFFIX)
        near = _nearest(written, current, layout.prefix) or _nearest(written, former, layout.prefix)
        if near:
            near = former.get(near, near)
            raise SettingsError(f"the environment has an unknown variable {name}; did you mean {near}{file}?")
        if name.startswith(layout.prefix):
            raise SettingsError(
                f"the environment has an unknown variable {name}; docs/configuration.md lists all variables with "
                "this prefix"
            )


def _nearest(name: str, known: Collection[str], prefix: str) -> str | None:
    if not name.startswith(prefix):
        return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=_SIMILARITY_CUTOFF)), None)
    # The common prefix says nothing about their similarity.
    ours = [other.removeprefix(prefix) for other in known if other.startswith(prefix)]
    near = difflib.get_close_matches(name.removeprefix(prefix), ours, n=1)
    return prefix + near[0] if near else None


def _read(name: str, environ: Mapping[str, str], *, secret: bool) -> tuple[str, str] | None:
    text = unquoted(trimmed(environ.get(name, ""), keep_spaces=True))
    if text.strip() or (text and secret):
        return text, name
    source = f"{name}{_FILE_SUFFIX}"
    path = unquoted(trimmed(environ.get(source, "")))
    if not path:
        return None
    try:
        text = trimmed(Path(path).read_text(encoding="utf-8"), keep_spaces=True)
    except OSError as error:
        raise SettingsError(f"{source} names {path}, which cannot be read ({error.strerror})") from error
    except ValueError:  # not UTF-8, or a NUL in the path
        raise SettingsError(f"{source} names {path}, which is not UTF-8 text") from None
    if secret and not text.strip():
        raise SettingsError(f"{source} names {path}, which is empty; write the secret into it, or unset {source}")
    return (text, source) if text.strip() else None


def _table(text: str, source: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise SettingsError(f'{source} must hold a JSON object, {{"name": "value"}}')
    return value
