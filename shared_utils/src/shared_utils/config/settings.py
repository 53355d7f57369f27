"""Settings: ``config.json`` < ``config.local.json`` < environment < command line, read once, then frozen.

A service describes its settings as pydantic models whose leaves name their environment variables (:func:`setting`).
:func:`load` merges the sources and remembers where each value came from.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from shared_utils.config import variables
from shared_utils.config.deprecations import ENVIRONMENT, Deprecated, modernise, same
from shared_utils.config.layout import Layout, Rename
from shared_utils.config.values import trimmed, unquoted, value_problem
from shared_utils.config.variables import Leaf
from shared_utils.errors import SettingsError


class Section(BaseModel):
    """A part of the configuration: frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def setting(default: Any, *env: str, doc: str, reload: bool = False, **constraints: Any) -> Any:
    """A leaf of the configuration.

    Args:
        default: its value where nothing sets it.
        env: short environment variables that set it, besides the one by its path (variables.py).
        doc: one line for the reference.
        reload: whether a running service takes a new value over on SIGHUP.
        constraints: pydantic's (``gt=0`` …).
    """
    return Field(default, description=doc, json_schema_extra={"env": list(env), "reload": reload}, **constraints)


def _comma_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


TextList = Annotated[tuple[str, ...], BeforeValidator(_comma_list)]
"""A list of texts; an environment variable gives it comma-separated."""


class RedisSettings(Section):
    """How to reach Redis or Valkey."""

    url: SecretStr | None = setting(
        None,
        "REDIS_URL",
        doc="redis://, rediss:// (TLS), unix:///path/to/socket, redis+sentinel://h1:26379,h2:26379/NAME/DB or "
        "redis+cluster://h1:6379,h2:6379; rediss+sentinel:// and rediss+cluster:// with TLS; wins over host and port; "
        "options behind a ?: ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs, ssl_check_hostname, db, username, "
        "password, sentinel_username, sentinel_password",
    )
    host: str = setting("localhost", "REDIS_HOST", doc="host, if there is no url")
    port: int = setting(6379, "REDIS_PORT", doc="port, if there is no url", gt=0, lt=65536)
    db: int = setting(0, "REDIS_DB", doc="database number, if there is no url", ge=0)
    username: str | None = setting(None, "REDIS_USERNAME", doc="ACL user")
    password: SecretStr | None = setting(None, "REDIS_PASSWORD", doc="password of the ACL user, or requirepass")
    sentinel_username: str | None = setting(None, "REDIS_SENTINEL_USERNAME", doc="ACL user of the Sentinels")
    sentinel_password: SecretStr | None = setting(
        None,
        "REDIS_SENTINEL_PASSWORD",
        doc="password of the Sentinels, if it differs from that of the servers",
    )


class TenantSettings(Section):
    """The tenant that this queue serves; tenants share no agents, sessions or choices."""

    name: str = setting(
        "",
        "TENANT",
        doc="part of the agents' tags, the database schema and the path of the session file; empty: the default "
        "tenant, which owns the agents of installations without tenants",
        pattern=r"^[a-z0-9][a-z0-9_]{0,29}$|^$",
    )
    shards: bool = setting(
        False,
        "TENANT_SHARDS",
        doc="true: several queues serve this tenant, and producers keep each user in one of them; false: a second "
        "queue of this tenant on the same Letta gets no agents",
    )


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "LOG_LEVEL", doc="least severe level that is logged", reload=True
    )
    format: Literal["auto", "json", "console"] = setting(
        "auto", "LOG_FORMAT", doc="auto: console on a terminal, json elsewhere"
    )
    user_ids: bool = setting(False, "LOG_USER_IDS", doc="show user ids as they are, not as a short hash", reload=True)
    message_text: bool = setting(
        False, "LOG_MESSAGE_TEXT", doc="show message texts of users and agents; for debugging only", reload=True
    )
    salt: SecretStr | None = setting(
        None, "LOG_SALT", doc="makes the hashes of user ids unique to this installation; the same for all its services"
    )


_Settings = TypeVar("_Settings", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[_Settings]):
    """Settings, and where each leaf came from (dotted path → source)."""

    settings: _Settings
    origins: Mapping[str, str]
    config: Path | None = None
    """The config.json that was read; None where there was none."""
    deprecated: Sequence[Deprecated] = ()
    """Former names of settings that the files and the environment use."""


def config_file(named: Path | None, layout: Layout, environ: Mapping[str, str]) -> tuple[Path, bool]:
    """The path of config.json, and whether the caller or the layout's variable names it; else it is ./config.json."""
    if named is not None:
        return named, True
    variable = unquoted(trimmed(environ.get(layout.config_variable, "")))
    return Path(variable or "config.json"), bool(variable)


def load(
    model: type[_Settings],
    layout: Layout,
    *,
    config: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, Any] | None = None,
    must_exist: bool = False,
) -> Loaded[_Settings]:
    """Read the settings of one program.

    Args:
        model: its settings model; each field is a section.
        layout: what else it declares.
        config: config.json; None means defaults. ``config.local.json`` beside it is laid over it.
        environ: the environment.
        flags: dotted path → value, from the command line.
        must_exist: whether a missing config.json is an error; else it means defaults.

    Raises:
        SettingsError: one sentence that names the value, its source, and what would be right.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    deprecated: list[Deprecated] = []
    is_there = config is not None and _is_there(config)
    if config is not None:
        if must_exist and not is_there:
            raise SettingsError(f"the configuration file {config} does not exist; correct its name, or create it")
        for path in (config, config.with_name(f"{config.stem}.local{config.suffix}")):
            content, former = _read(path, model, layout)
            _lay_over(values, content, origins, str(path))
            origins |= {rename.new: f"{path}, as {rename.old}" for rename, _ in former}
            deprecated += [used for _, used in former]
    variables.refuse_unknown(environ, model, layout)
    deprecated += _lay_environment_over(values, model, layout, environ, origins)
    for dotted, value in (flags or {}).items():
        if value is not None:
            _set(values, dotted, value)
            origins[dotted] = "command line"
    _refuse_blank_secrets(values, model, origins)
    for leaf in variables.leaves(model):
        _tidy(values, leaf, origins)
    try:
        return Loaded(model.model_validate(values), origins, config if is_there else None, tuple(deprecated))
    except ValidationError as error:
        raise _explained(error, model, origins) from None


def _lay_environment_over(
    values: dict[str, Any],
    model: type[BaseModel],
    layout: Layout,
    environ: Mapping[str, str],
    origins: dict[str, str],
) -> Iterator[Deprecated]:
    former_variables = layout.former
    for leaf in variables.leaves(model):
        given = variables.given(leaf, leaf.variables(layout), environ)
        for name in former_variables.get(leaf.path, ()):
            if (former := variables.given(leaf, [name], environ)) is not None:
                yield _deprecated_variable(leaf, layout, given, former)
                given = given or former
        if given is not None:
            value, origins[leaf.path] = given
            _set(values, leaf.path, value)


def _deprecated_variable(
    leaf: Leaf, layout: Layout, counts: tuple[Any, str] | None, former: tuple[Any, str]
) -> Deprecated:
    """A former variable in use, beside the one that counts: a present one, or another former one."""
    value, name = former
    present = variables.successor(leaf, layout, name)
    if counts is not None and not same(counts[0], value, leaf):
        if counts[1].removesuffix("_FILE") in layout.former.get(leaf.path, ()):
            raise SettingsError(
                f"the environment gives {counts[1]} and {name} different values, and both are former names of "
                f"{present}; set that alone"
            )
        raise SettingsError(
            f"the environment gives {counts[1]} and its former name {name} different values; unset {name}"
        )
    return Deprecated(name, present, ENVIRONMENT)


def _refuse_blank_secrets(values: Mapping[str, Any], model: type[BaseModel], origins: Mapping[str, str]) -> None:
    """Refuse blank secrets: they would be used like any other, but protect nothing."""
    for leaf in variables.leaves(model):
        value: Any = values
        for key in leaf.path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if leaf.secret and isinstance(value, str) and not value.strip():
            source = _source(leaf.path, origins)
            raise SettingsError(f"the secret {leaf.path} (from {source}) is empty; give it a value, or remove it")


def _is_there(path: Path) -> bool:
    """Not ``Path.exists``, which tells some errors and keeps others to itself, depending on Python's version."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    return True


def _read(
    path: Path, model: type[BaseModel], layout: Layout
) -> tuple[dict[str, Any], Sequence[tuple[Rename, Deprecated]]]:
    """The sections of a file that a model has, by their present names, and which settings had a former one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}, ()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except ValueError as error:
        raise SettingsError(f"{path} is not valid JSON ({error}); correct it there") from None
    except RecursionError:
        raise SettingsError(f"{path} is nested too deeply for a configuration") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold a JSON object with the sections {_listed(layout.sections)}")
    known = layout.sections | model.model_fields.keys()
    for key in content:
        if key not in known | layout.former_sections and not key.startswith("$"):
            raise SettingsError(f"{path} has an unknown section '{key}'{_nearest(key, known)}")
    _check_sections(content, model, str(path))
    former = modernise(content, layout.renames, variables.leaves(model), str(path))
    _refuse_leftovers(content, layout, str(path))
    return {key: value for key, value in content.items() if key in model.model_fields}, former


def _refuse_leftovers(content: Mapping[str, Any], layout: Layout, source: str) -> None:
    """Refuse unknown keys of a former section after its settings were renamed."""
    own = {rename.old.partition(".")[0] for rename in layout.renames}
    for section in layout.former_sections & own & content.keys():
        if not isinstance(content[section], dict):
            raise SettingsError(f"{source}: '{section}' must be a JSON object of settings by name")
        known = {rename.old for rename in layout.renames}
        for dotted in _dotted(content[section], f"{section}."):
            near = _nearest(dotted, known)
            raise SettingsError(f"the configuration has an unknown key {dotted} (from {source}){near}")


def _dotted(content: Mapping[str, Any], at: str) -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{at}{key}.")
        else:
            yield f"{at}{key}"


def _check_sections(content: Mapping[str, Any], model: type[BaseModel], source: str, at: str = "") -> None:
    for name, section in variables.sections(model):
        if name in content:
            if not isinstance(content[name], dict):
                raise SettingsError(f"{source}: '{at}{name}' must be a JSON object of settings by name")
            _check_sections(content[name], section, source, f"{at}{name}.")


def _lay_over(into: dict[str, Any], new: Mapping[str, Any], origins: dict[str, str], source: str, at: str = "") -> None:
    for key, value in new.items():
        dotted = f"{at}{key}"
        if isinstance(value, dict) and isinstance(into.get(key, {}), dict):
            _lay_over(into.setdefault(key, {}), value, origins, source, f"{dotted}.")
        else:
            into[key] = value
            origins[dotted] = source


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, leaf = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[leaf] = value


def _tidy(values: dict[str, Any], leaf: Leaf, origins: Mapping[str, str]) -> None:
    """Strip a text from any source of characters that cannot be intended.

    Raises:
        SettingsError: it cannot be used; the sentence does not repeat it.
    """
    *sections, name = leaf.path.split(".")
    for section in sections:
        values = values.get(section, {})
    if name not in values:
        return
    value = values[name] = leaf.tidied(values[name])
    if isinstance(value, str) and (problem := value_problem(value, one_line=leaf.secret)):
        raise SettingsError(f"the setting {leaf.path} (from {_source(leaf.path, origins)}) {problem}")


def _explained(error: ValidationError, model: type[BaseModel], origins: Mapping[str, str]) -> SettingsError:
    problem = error.errors(include_url=False, include_input=False)[0]
    dotted = ".".join(str(part) for part in problem["loc"])
    source = _source(dotted, origins)
    where = f"{dotted} (from {source})" if source else dotted
    if problem["type"] == "extra_forbidden":
        section = _model_at(model, [str(part) for part in problem["loc"][:-1]])
        key = str(problem["loc"][-1])
        return SettingsError(f"the configuration has an unknown key {where}{_nearest(key, section.model_fields)}")
    return SettingsError(f"the setting {where} is wrong: {problem['msg'].removeprefix('Value error, ')}")


def _source(dotted: str, origins: Mapping[str, str]) -> str | None:
    """Where a value comes from, or else what holds it, or else a part of it."""
    for known, source in origins.items():
        if f"{dotted}.".startswith(f"{known}.") or known.startswith(f"{dotted}."):
            return source
    return None


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    names = iter(path)
    for name in names:
        found = model.model_fields[name].annotation
        if get_origin(found) is dict:
            found = get_args(found)[1]
            next(names, None)
        if isinstance(found, type) and issubclass(found, BaseModel):
            model = found
    return model


def _nearest(key: str, known: Any) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {_listed(known)}"


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
