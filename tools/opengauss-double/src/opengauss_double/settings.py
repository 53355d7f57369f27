"""Names of settings: which openGauss lacks, which it has alone, and how the upstream keeps those."""

from __future__ import annotations

from opengauss_double import facts
from opengauss_double.errors import UNDEFINED_OBJECT, Refusal
from opengauss_double.profiles import Profile
from opengauss_double.protocol import SETTINGS_PREFIX

SESSION_TIMEOUT = "session_timeout"
CLIENT_PORT = SETTINGS_PREFIX + "client_port"
"""The upstream's setting in which the double keeps the port its client connected from."""
_UNITS = {"": 1, "s": 1, "ms": 0.001, "min": 60, "h": 3600, "d": 86400}


def upstream_name(name: str, profile: Profile, *, writing: bool = False) -> str:
    """The upstream's name of the setting `name`. Raises `Refusal`."""
    table = facts.table("settings")
    name = name.lower()
    if name in table["missing"] or (name in table["datavec"] and not profile.datavec):
        raise Refusal(UNDEFINED_OBJECT, f'unrecognized configuration parameter "{name}"')
    if name in table["datavec"]:
        return str(table["datavec"][name])
    if name in table["fixed"] and writing:
        raise Refusal("55P02", f'parameter "{name}" cannot be changed')
    return SETTINGS_PREFIX + name if name in table["own"] or name in table["fixed"] else name


def own_names() -> list[str]:
    """The upstream's names of openGauss's own settings."""
    return [SETTINGS_PREFIX + name for name in facts.table("settings")["own"]]


def database_defaults(mode: str, profile: Profile, session_timeout: str | None = None) -> dict[str, str]:
    """Upstream names and values that every session of a database starts with."""
    table = facts.table("settings")
    own = {**table["own"], **table["fixed"]}
    if session_timeout is not None:
        own[SESSION_TIMEOUT] = session_timeout
    kept = {SETTINGS_PREFIX + name: value.format(mode=mode) for name, value in own.items()}
    datavec = {"hnsw.ef_search": "40", "ivfflat.probes": "1"} if profile.datavec else {}
    return {**kept, **datavec, "extra_float_digits": "0"}


def seconds(value: str) -> float | None:
    """A duration such as `600`, `10min`, `500ms`; None where it is 0 (never) or no duration."""
    number = value.strip().rstrip("smindh").strip()
    unit = value.strip()[len(number) :].strip()
    try:
        return float(number) * _UNITS[unit] or None
    except (KeyError, ValueError):
        return None
