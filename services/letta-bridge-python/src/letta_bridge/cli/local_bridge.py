"""Reads the status of this host's bridge, whose Redis user may fail where the operator's does not."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from typing import Any, Final

from letta_bridge.settings import HttpSettings

_READYZ_SECONDS: Final = 5.0
"""More than a bridge gives all of its checks."""
_UNREADY_STATUS: Final = 503
_LOOPBACK_OF_WILDCARD: Final = {
    "": "127.0.0.1",
    "0.0.0.0": "127.0.0.1",
    "::": "::1",
}  # the bound address, and the address to connect to


def not_ready(settings: HttpSettings) -> str | None:
    """Why the bridge on this host's configured port takes no tasks; None if it does, or if no bridge listens there."""
    host = _LOOPBACK_OF_WILDCARD.get(settings.host, settings.host)
    address = f"[{host}]" if ":" in host else host
    place = f"{address}:{settings.port}"
    try:
        urllib.request.urlopen(f"http://{place}/readyz?verbose", timeout=_READYZ_SECONDS).close()  # http
    except urllib.error.HTTPError as answer:
        with answer:
            return _reasons(answer.read()) if answer.code == _UNREADY_STATUS else None
    except (OSError, ValueError) as error:
        if not _timed_out(error):
            return None
        return (
            f"the bridge at {place} does not answer within {_READYZ_SECONDS:g} s, so it is frozen or overloaded and "
            f"takes no tasks; see its log, and restart it if this persists"
        )
    return None


def _timed_out(error: OSError | ValueError) -> bool:
    """Whether the request timed out; urllib wraps only errors from before the request is sent."""
    return isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)


def _reasons(body: bytes) -> str | None:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        checks: list[dict[str, Any]] = json.loads(body)["checks"]
        return "; ".join(str(check["detail"]) for check in checks if check["required"] and not check["ok"]) or None
    return None
