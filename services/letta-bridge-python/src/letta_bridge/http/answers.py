"""The API's error responses: ``{"code": …, "error": one sentence}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from letta_bridge.errors import ChoiceNotShared, ChoiceUnknown
from shared_utils.errors import ServiceError
from shared_utils.observability import logs
from shared_utils.persistence.errors import Conflict, PersistenceError, RowMissing, StaleSession, ValueRefused
from shared_utils.text import clean_text

_STATUS_OF_ERROR: Final = ((RowMissing, 404), (Conflict, 409), (StaleSession, 409), (ValueRefused, 422))
_STATUS_UNAVAILABLE: Final = 503
_RETRY_SECONDS: Final = 1


class Problem(BaseModel):
    """The body of an error response."""

    code: str = Field(description="stable error code, for programs")
    error: str = Field(description="one sentence for people")


ERROR_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": Problem} for status in (401, 403, 404, 409, 422, 503)
}
"""For the description of a route."""


def problem(status: int, code: str, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The error response, with secrets removed from the sentence."""
    body = Problem(code=code, error=clean_text(logs.redact_text(sentence)))
    return JSONResponse(body.model_dump(), status_code=status, headers=dict(headers or {}))


def explain_errors(app: FastAPI) -> None:
    """Install handlers that answer errors of ``app`` in this form."""

    @app.exception_handler(PersistenceError)
    async def _of_the_store(_request: Request, error: PersistenceError) -> JSONResponse:
        status = next((status for kind, status in _STATUS_OF_ERROR if isinstance(error, kind)), _STATUS_UNAVAILABLE)
        headers = {"Retry-After": str(_RETRY_SECONDS)} if status == _STATUS_UNAVAILABLE and error.retryable else None
        return problem(status, error.code, str(error), headers)

    @app.exception_handler(ChoiceUnknown)
    @app.exception_handler(ChoiceNotShared)
    async def _of_consent(_request: Request, error: ServiceError) -> JSONResponse:
        return problem(_STATUS_UNAVAILABLE, error.code, str(error), {"Retry-After": str(_RETRY_SECONDS)})

    @app.exception_handler(RequestValidationError)
    async def _of_the_request(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return problem(422, "invalid_request", f"{where}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def _of_http(_request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        return problem(error.status_code, code, str(error.detail), error.headers)
