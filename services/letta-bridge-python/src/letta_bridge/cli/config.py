"""``letta-bridge config``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from pydantic import BaseModel, SecretStr

from letta_bridge.cli.common import ConfigOption, Exit, JsonOption, fail, tell
from letta_bridge.cli.output import cut, print_json, print_table
from letta_bridge.config_layout import LAYOUT
from letta_bridge.settings import BridgeSettings, read_settings
from shared_utils.config.deprecations import sentences
from shared_utils.config.layout import Rename
from shared_utils.errors import SettingsError
from shared_utils.observability.logs import redact_text

_HIDDEN_VALUE = "***"
_SHOWN_LENGTH = 80


def config(
    setting: Annotated[
        str | None, typer.Argument(help="Only this setting or section, e.g. letta or queue.lease_seconds.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of config.json instead.")] = False,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the settings in force and where each comes from. Secrets are not shown."""
    if schema:
        typer.echo(json.dumps(config_schema(), ensure_ascii=False, indent=2))
        return
    try:
        loaded = read_settings(config)
    except SettingsError as error:
        fail(str(error), Exit.USAGE)
    everything = {
        name: {"value": value, "source": _source(name, loaded.origins)} for name, value in effective(loaded.settings)
    }
    shown = {name: leaf for name, leaf in everything.items() if setting is None or _is_in(name, setting)}
    if setting is not None and not shown:
        moved = LAYOUT.moved(setting)
        shown = {name: leaf for name, leaf in everything.items() if name in moved.values()}
        for old, new in moved.items():
            tell(f"{old} is {new} now")
    if not shown:
        fail(f"there is no setting '{setting}'; 'letta-bridge config' shows all", Exit.USAGE)
    for _, _, sentence in sentences(loaded.deprecated):
        tell(sentence)
    if as_json:
        print_json(shown)
        return
    rows = [(name, _text(leaf["value"], whole=setting in shown), leaf["source"]) for name, leaf in shown.items()]
    print_table(("SETTING", "VALUE", "FROM"), rows)


def _is_in(name: str, setting: str) -> bool:
    """Whether a dotted name is this setting, or one of this section."""
    return f"{name}.".startswith(f"{setting}.")


def config_schema() -> dict[str, Any]:
    """The JSON schema of config.json. It allows sections of other services without checking them."""
    schema = BridgeSettings.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "config.json"
    for name in sorted(LAYOUT.sections - schema["properties"].keys()):
        schema["properties"][name] = {"type": "object", "description": "read by another service"}
    for rename in LAYOUT.renames:
        _allow_former(schema, rename)
    schema["patternProperties"] = {r"^\$": {}}
    plain: dict[str, Any] = _without_extras(schema)
    return plain


def _allow_former(schema: dict[str, Any], rename: Rename) -> None:
    """Allow a former name in the schema, marked as deprecated."""
    *sections, name = rename.old.split(".")
    at = schema
    for section in sections:
        found = at["properties"].setdefault(section, {"type": "object", "properties": {}, "deprecated": True})
        at = schema["$defs"][found["$ref"].rpartition("/")[2]] if "$ref" in found else found
    at["properties"][name] = {"deprecated": True, "description": f"it is now called {rename.new}"}


def _without_extras(schema: Any) -> Any:
    """The schema without entries that only this project's code reads."""
    if isinstance(schema, list):
        return [_without_extras(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    own = {"env", "reload"} if "description" in schema else set()
    return {key: _without_extras(item) for key, item in schema.items() if key not in own}


def effective(model: BaseModel, at: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of each setting in force, without secrets."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from effective(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", _redacted(value)


def _redacted(value: Any) -> Any:
    """The value as JSON, without secrets."""
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        return _address(secret) if "://" in secret else _HIDDEN_VALUE
    if isinstance(value, str):
        return _address(value) if "://" in value else redact_text(value)
    if isinstance(value, BaseModel):
        return _redacted(value.model_dump())
    if isinstance(value, Mapping):
        return {str(key): _redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _address(url: str) -> str:
    """A URL without credentials and query; empty if its password is not escaped."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return _HIDDEN_VALUE
    user, at, host = parts.netloc.rpartition("@")
    if not host or (not at and "@" in url):
        return _HIDDEN_VALUE
    return f"{parts.scheme}://{f'{_HIDDEN_VALUE}@' if user or at else ''}{host}{parts.path}"


def _source(name: str, origins: Mapping[str, str]) -> str:
    """Where a value came from; a table of several keys may come from several places."""
    found = {source for known, source in origins.items() if known == name or known.startswith(f"{name}.")}
    return ", ".join(sorted(found)) or "default"


def _text(value: Any, *, whole: bool) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if whole else cut(text, _SHOWN_LENGTH)
