"""Prints problems that running services report: each once when it begins, and once when it ends."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Final

from shared_utils.observability.logs import redact_text

_PAUSE_SECONDS: Final = 5.0
"""Between two looks."""
_TIMEOUT_SECONDS: Final = 5.0
"""More than a service gives all of its checks."""
_LOOKS_BEFORE_REPORT: Final = 2
"""A trouble is told once it was seen so often in a row: a restart brings some that are over at once."""
_UNREADY_STATUS: Final = 503
_NO_ANSWER: Final = "HTTP port"


class ServiceProblems:
    """What `/readyz?verbose` of some services says is wrong.

    Args:
        services: name -> base URL.
        announce: told each trouble in one sentence.
    """

    def __init__(self, services: Mapping[str, str], announce: Callable[[str], None]) -> None:
        self._services = services
        self._announce = announce
        self._seen: dict[tuple[str, str], int] = {}
        """(service, check) -> looks in a row with trouble."""
        self._told: dict[tuple[str, str], str] = {}
        """(service, check) -> what was announced of it."""
        self._next = 0.0

    def look(self) -> None:
        """Ask all services, unless they were asked a moment ago."""
        if time.monotonic() < self._next:
            return
        for service, url in self._services.items():
            troubles = _troubles(url)
            if troubles is not None:
                self._compare(service, troubles)
        self._next = time.monotonic() + _PAUSE_SECONDS

    def _compare(self, service: str, troubles: Mapping[str, str]) -> None:
        for name, detail in troubles.items():
            looks = self._seen[service, name] = self._seen.get((service, name), 0) + 1
            if looks == _LOOKS_BEFORE_REPORT and not self._is_told(service, detail):
                self._told[service, name] = detail
                self._announce(redact_text(f"{service} ({name}): {detail}"))
        if _NO_ANSWER in troubles:
            return  # of its other checks it says nothing
        for key in [key for key in self._seen if key[0] == service and key[1] not in troubles]:
            del self._seen[key]
            if self._told.pop(key, None) is not None:
                self._announce(f"{service} ({key[1]}): healthy again")

    def _is_told(self, service: str, detail: str) -> bool:
        """Whether another check of the service reports the same problem: a full Redis fails several checks."""
        return any(key[0] == service and told == detail for key, told in self._told.items())


def _troubles(url: str) -> dict[str, str] | None:
    """Check → problem; None if no process listens, which the supervisor of the processes reports."""
    try:
        with urllib.request.urlopen(f"{url}/readyz?verbose", timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310  # http
            return _failed(answer.read())
    except urllib.error.HTTPError as answer:
        with answer:
            return _failed(answer.read()) if answer.code == _UNREADY_STATUS else None
    except (OSError, ValueError) as error:
        if not isinstance(error, TimeoutError) and not isinstance(getattr(error, "reason", None), TimeoutError):
            return None
        return {
            _NO_ANSWER: f"no answer within {_TIMEOUT_SECONDS:g} s, so it is frozen or overloaded; see its log, and "
            "kill it if this persists: the stack restarts it"
        }


def _failed(body: bytes) -> dict[str, str] | None:
    try:
        checks: list[dict[str, Any]] = json.loads(body)["checks"]
        return {str(check["name"]): str(check["detail"]) for check in checks if not check["ok"]}
    except (ValueError, TypeError, KeyError):
        return None
