"""The scripted model behind a key, as a paid one is: mounted into its container and run there."""

from __future__ import annotations

from typing import Any

from scripted_model.app import application
from scripted_model.faults import Dial
from scripted_model.server import server

KEY = b"Bearer sk-right"
_REFUSAL = b'{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","code":"invalid_api_key"}}'
_model = application(models=["scripted"], dial=Dial(), context_length=128_000)


async def _guarded(scope: Any, receive: Any, send: Any) -> None:
    """Refuse other keys. The health check, from within the container, needs none."""
    headers = dict(scope["headers"])
    if headers.get(b"authorization") == KEY or headers[b"host"].startswith(b"127.0.0.1"):
        await _model(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": _REFUSAL})


if __name__ == "__main__":
    server(_guarded, "0.0.0.0", 8000, print).run()
