# ruff: noqa: INP001 - a script that images copy, not a package
"""The images' health check: exit 0 where ``GET URL`` answers 200 within four seconds. They hold no curl."""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit


def healthy(url: str) -> bool:
    """Ask once; not through urllib, which would go by the container's HTTP_PROXY."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=4)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200  # noqa: PLR2004 - OK; http.HTTPStatus takes as long as the rest
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not healthy(sys.argv[1]))
