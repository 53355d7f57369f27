"""Generates the reference of settings from the services' declarations.

``./run generate`` writes them.
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from pydantic import BaseModel, SecretStr

from shared_utils.config.layout import Layout, Rename
from shared_utils.config.variables import Leaf, leaves, sections

Service: TypeAlias = tuple[type[BaseModel], Layout]
"""The settings model of a service, and its layout."""

_INTRODUCTION: Final = """\
# Configuration

`config.json` holds every default. Over it go, in this order: `config.local.json` beside it, the environment, and the
flags of a command. Leave `config.json` as it is and write what differs into `config.local.json`, which git ignores.
Which file is read: `--config`, else the variable `LETTA_BRIDGE_CONFIG`, else `./config.json`. A file that is named and
not there is an error, at the start and on SIGHUP.

- A key that does not exist is an error which names the nearest one that does. A service reads its own sections and
  leaves the others to their services; keys that begin with `$` are comments.
- Every setting has a variable by its path: `LETTA_BRIDGE_` + the path in capitals with `_` for each dot, so
  `LETTA_BRIDGE_QUEUE_LEASE_SECONDS` sets `queue.lease_seconds`. Many have a short one too; the long one wins where both
  are set.
- A setting with a new name is read under its former one for one release more, from a file and from a variable
  ([upgrading.md](upgrading.md#settings)). The log names it at the start and on SIGHUP (`settings_deprecated`), and so
  do `letta-bridge config` and `doctor`. Both names with different values in one file, or in the environment, are an
  error.
- An unknown variable that begins with `LETTA_BRIDGE_` is an error, and so is a near miss of a short one
  (`LETTA_TIMOUT`). Variables of letta-server, of systemd, and those Kubernetes sets for its services are left alone;
  so `REDIS_PORT=tcp://…`, which it sets for a service named `redis`, counts as not set.
- A variable `NAME` may also be given as `NAME_FILE`, the path of a file that holds the value: for secrets.
  Where both are set `NAME` counts. An empty variable counts as not set.
- What cannot be meant is stripped: line ends, a byte order mark and invisible characters around a value, spaces around
  anything but a password, and one pair of quotes around a variable (a password that has quotes of its own goes into a
  `NAME_FILE`). Choices may be written in capitals. What cannot be sent is refused at the start: a line break within a
  value, bytes that are not UTF-8, a key with a character that no HTTP header may hold.
- A list is comma-separated in a variable, a table is a JSON object.
- Secrets have no flags, so that no process list shows them, and belong into a variable or a file rather than into
  `config.json`. They are never printed.

## Changing settings while it runs

`kill -HUP` (or `docker kill -s HUP`) makes a service read everything again. Settings marked ↻ count from then on, for
turns that begin later. One that differs and is not marked stays as it was; the log line `settings_reloaded` names both
kinds. Settings that are wrong change nothing, and `settings_refused` says what is wrong. The environment of a running
process cannot change: what is to be reloaded lies in `config.local.json` or in a `NAME_FILE`. memory-python takes over
the section `logs` only.
"""

_CLOSING: Final = """\
## Redis addresses

| `REDIS_URL` | |
|---|---|
| `redis://user:password@host:6379/0` | one server; every part but the host may be left out |
| `rediss://…` | the same with TLS |
| `unix:///path/to/redis.sock?db=0` | a socket on this machine; `unix://user:password@/path` with a password |
| `redis+sentinel://user:password@h1:26379,h2:26379/NAME/0` | the primary that these Sentinels call `NAME`; \
user and password are the servers' |
| `redis+cluster://user:password@h1:6379,h2:6379` | a Cluster; name several nodes, because one may be down at a start |
| `rediss+sentinel://…`, `rediss+cluster://…` | the same with TLS, toward the Sentinels too |

In a password, `/ ? # [ @ : %` are percent-encoded (`%2F` and so on); `REDIS_PASSWORD` takes it as it is. Sentinels that
want a password get the servers' one, unless `REDIS_SENTINEL_PASSWORD` (and `REDIS_SENTINEL_USERNAME`) says another.

Options follow behind a `?`, joined by `&`: `db`, `username`, `password`, `sentinel_username`, `sentinel_password`, and
with TLS `ssl_ca_certs` (file of the authority that signed the server's certificate), `ssl_certfile` and `ssl_keyfile`
(a certificate of the client), `ssl_cert_reqs` (`required`, `optional`, `none`), `ssl_check_hostname` (`true`, `false`).
Any other option is refused by its name: time limits and the like are the services' own.

## letta-server

It starts Letta, which is configured by variables alone. [Its README](../services/letta-server/README.md) has them:
`LETTA_PG_*`, `LETTA_REDIS_*`, `LETTA_SERVER_*`, `LETTA_ENCRYPTION_KEY`, and `LOG_LEVEL`, `LOG_FORMAT` and
`LOG_MESSAGE_TEXT` as the other services.
"""

_BOUNDS: Final = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "multiple_of": "multiple of {}"}


def render(services: Iterable[Service]) -> str:
    """The whole document. A section that several models have is described once."""
    parts = [_INTRODUCTION]
    seen: set[str] = set()
    for model, layout in services:
        for name, section in sections(model):
            if name not in seen:
                seen.add(name)
                parts += _section(name, section, layout)
    return "\n".join([*parts, _CLOSING])


def renames(services: Iterable[Service]) -> str:
    """The table of former names."""
    rows = ["| before | now | short variable before | now |", "|---|---|---|---|"]
    for rename, leaf in _renamed(services).items():
        before = ", ".join(f"`{name}`" for name in rename.old_variables)
        now = ", ".join(f"`{name}`" for name in leaf.short_variables) if rename.old_variables else ""
        rows.append(f"| `{rename.old}` | `{rename.new}` | {before} | {now} |")
    return "\n".join(rows)


def _renamed(services: Iterable[Service]) -> dict[Rename, Leaf]:
    """Every rename once, with its setting."""
    found: dict[Rename, Leaf] = {}
    for model, layout in services:
        by_path = {leaf.path: leaf for leaf in leaves(model)}
        found |= {rename: by_path[rename.new] for rename in layout.renames}
    return found


def with_former_names(document: str, services: Iterable[Service], codes: Mapping[str, str]) -> str:
    """The document with the present tables between their marks."""
    rows = ["| before | now |", "|---|---|", *(f"| `{former}` | `{present}` |" for former, present in codes.items())]
    for name, table in {"settings": renames(services), "codes": "\n".join(rows)}.items():
        before, begin, rest = document.partition(f"<!-- {name}: ./run generate -->")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        document = f"{before}{begin}\n{table}\n{end}{after}"
    return document


def defaults(services: Iterable[Service]) -> dict[str, Any]:
    """What config.json holds: every default but secrets and what is empty."""
    found: dict[str, Any] = {}
    for model, _ in services:
        # The first model to have a section has all of it; a later one may read a part.
        found = model().model_dump(mode="json", exclude_none=True) | found
    return found


def _section(name: str, section: type[BaseModel], layout: Layout) -> Iterator[str]:
    yield f"## `{name}`\n"
    yield f"{(section.__doc__ or '').strip()}\n"
    yield "| setting | variables | type | default | |"
    yield "|---|---|---|---|---|"
    for leaf in leaves(section, f"{name}."):
        yield _row(leaf, layout)
    yield ""
    for leaf in leaves(section, f"{name}."):
        yield from _members(leaf)


def _row(leaf: Leaf, layout: Layout) -> str:
    names = "<br>".join(f"`{name}`" for name in leaf.variables(layout))
    live = " ↻" if leaf.reloadable else ""
    return f"| `{leaf.path}`{live} | {names} | {_cells(leaf)} |"


def _cells(leaf: Leaf) -> str:
    return f"{_type(leaf)} | {_default(leaf)} | {_escaped(leaf.field.description or '')}"


def _members(leaf: Leaf) -> Iterator[str]:
    """The settings of each entry of a table whose entries are sections."""
    member = typing.get_args(leaf.field.annotation)[1] if leaf.table else None
    if not (isinstance(member, type) and issubclass(member, BaseModel)):
        return
    yield f"Each entry of `{leaf.path}`:\n"
    yield "| setting | type | default | |"
    yield "|---|---|---|---|"
    for inner in leaves(member, f"{leaf.path}.<name>."):
        yield f"| `{inner.path}` | {_cells(inner)} |"
    yield ""


def _type(leaf: Leaf) -> str:
    bounds = [
        text.format(f"{value:g}")
        for constraint in leaf.field.metadata
        for name, text in _BOUNDS.items()
        if (value := getattr(constraint, name, None)) is not None
    ]
    return _escaped(", ".join([_type_name(leaf.field.annotation), *bounds]))


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin in {typing.Union, types.UnionType}:
        return " or ".join("empty" if part is type(None) else _type_name(part) for part in arguments)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    names = {bool: "true or false", int: "integer", float: "number", str: "text", SecretStr: "secret"}
    return names.get(annotation, "list" if origin is tuple else "table" if origin is dict else "text")


def _default(leaf: Leaf) -> str:
    value = leaf.field.get_default(call_default_factory=True)
    if value is None:
        return ""
    if leaf.table and any(isinstance(entry, BaseModel) for entry in value.values()):
        return "see `config.json`"
    if isinstance(value, tuple):
        return ", ".join(f"`{entry}`" for entry in value)
    if isinstance(value, bool | dict):
        return _code(json.dumps(value, ensure_ascii=False))
    return _code(f"{value:g}" if isinstance(value, float) else str(value))


def _code(text: str) -> str:
    return f"`{_in_cell(text)}`" if text else ""


def _escaped(text: str) -> str:
    return _in_cell(text).replace("<", "&lt;")


def _in_cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")
