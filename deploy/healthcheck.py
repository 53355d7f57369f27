# ruff: noqa: INP001, T201 - a script that images copy, not a package
"""The images' health check: exit 0 where ``GET URL`` answers 200 within four seconds. They hold no curl.

Otherwise it prints why, which ``docker inspect --format '{{json .State.Health}}' CONTAINER`` shows.
"""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

_SHOWN = 2000
"""Bytes of an answer: docker keeps 4096 characters of what a check prints."""


def trouble(url: str) -> str | None:
    """Ask once; why it is not healthy, None where it is. Not through urllib, which would go by HTTP_PROXY."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=4)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path)
        response = connection.getresponse()
        if response.status == 200:  # noqa: PLR2004 - OK; http.HTTPStatus takes as long as the rest
            return None
        return f"{url} answers {response.status}: {response.read(_SHOWN).decode(errors='replace')}"
    except (OSError, HTTPException) as error:
        return f"{url} does not answer: {type(error).__name__}: {error}"
    finally:
        connection.close()


if __name__ == "__main__":
    if (found := trouble(sys.argv[1])) is not None:
        print(found)
        sys.exit(1)
