"""Every fault by its name."""

from __future__ import annotations

from collections.abc import Sequence

from bridge_chaos.fault import Fault
from bridge_chaos.faults import (
    bridge,
    bridges,
    consent,
    erasure,
    ids,
    letta,
    letta_calls,
    load,
    memory,
    model,
    operator,
    postgres,
    real_letta,
    records,
    redis,
    redis_loss,
)

_MODULES = (
    bridge,
    bridges,
    redis,
    redis_loss,
    records,
    postgres,
    letta,
    letta_calls,
    model,
    memory,
    consent,
    erasure,
    ids,
    operator,
    load,
    real_letta,
)


def catalogue() -> dict[str, Fault]:
    """Name → fault, in the order of the report."""
    return {fault.name: fault for module in _MODULES for fault in module.faults()}


def chosen(names: Sequence[str]) -> list[Fault]:
    """The faults of these names; a prefix selects all that begin so, and no names select all faults.

    Raises:
        KeyError: an unknown name.
    """
    known = catalogue()
    if not names:
        return list(known.values())
    found: dict[str, Fault] = {}
    for name in names:
        matching = {key: fault for key, fault in known.items() if key == name or key.startswith(f"{name}/")}
        matching = matching or {key: fault for key, fault in known.items() if key.startswith(name)}
        if not matching:
            raise KeyError(name)
        found |= matching
    return list(found.values())
