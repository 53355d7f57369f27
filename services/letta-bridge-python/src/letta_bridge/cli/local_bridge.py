"""What the bridge of this host says of itself: its Redis user may meet what the operator's does not."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from typing import Any, Final

from letta_bridge.settings import HttpSettings

_SECONDS: Final = 1.0
_UNREADY: Final = 503
_ANY: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # where one binds, and where one asks


def not_ready(settings: HttpSettings) -> str | None:
    """Why the bridge on this host's configured port takes no tasks; None where it does, or where none answers there."""
    host = _ANY.get(settings.host, settings.host)
    address = f"[{host}]" if ":" in host else host
    try:
        urllib.request.urlopen(f"http://{address}:{settings.port}/readyz?verbose", timeout=_SECONDS).close()  # http
    except urllib.error.HTTPError as answer:
        with answer:
            return _reasons(answer.read()) if answer.code == _UNREADY else None
    except (OSError, ValueError):
        return None
    return None


def _reasons(body: bytes) -> str | None:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        checks: list[dict[str, Any]] = json.loads(body)["checks"]
        return "; ".join(str(check["detail"]) for check in checks if check["required"] and not check["ok"]) or None
    return None
