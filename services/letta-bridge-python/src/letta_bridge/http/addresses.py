"""Validates the percent-encoded UTF-8 of URLs that name a user."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from fastapi import HTTPException, Request


def require_utf8(request: Request) -> None:
    """A dependency of routes that name users.

    Raises:
        HTTPException: 400 if path or query is not UTF-8; a lenient decoding could name another user.
    """
    raw_path: bytes = request.scope.get("raw_path") or b""
    try:
        for part in (raw_path, request.scope["query_string"]):
            unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise HTTPException(400, "the address is not UTF-8; percent-encode the user id as UTF-8") from None
