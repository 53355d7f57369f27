"""Middlewares around the calls of a port, for metrics and traces; by default a call passes unobserved.

A new method of a port needs no change here, nor in a middleware that does not observe it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

Call = Callable[..., Awaitable[Any]]
_Port = TypeVar("_Port")


class Middleware:
    """Wraps calls from a port's users to the port."""

    def wrap(self, operation: str, call: Call) -> Call:
        """What is called in place of a method; by default the method itself, which costs nothing.

        Args:
            operation: the method's name.
            call: the method, or what an inner middleware made of it.
        """
        del operation
        return call


def instrumented(port: _Port, *middlewares: Middleware) -> _Port:
    """The port, with every method passed through the middlewares; the last one is the outermost."""
    return cast("_Port", _Instrumented(port, middlewares))


class _Instrumented:
    def __init__(self, port: object, middlewares: tuple[Middleware, ...]) -> None:
        self._port = port
        self._middlewares = middlewares

    def __getattr__(self, operation: str) -> Call:
        call: Call = getattr(self._port, operation)
        for middleware in self._middlewares:
            call = middleware.wrap(operation, call)
        setattr(self, operation, call)  # the next call finds it without coming here
        return call
