"""The errors that the double returns.

DoubleError
├── Refusal            what the client is told, as an openGauss error
├── UpstreamRefused    the PostgreSQL behind the double refused a connection or a statement of the double's own
└── Disconnected       one side hung up
"""

from __future__ import annotations

SYNTAX_ERROR = "42601"
UNDEFINED_OBJECT = "42704"
NOT_SUPPORTED = "0A000"


class DoubleError(Exception):
    """Any error of this package."""


class Refusal(DoubleError):
    """An error as openGauss words it.

    Args:
        sqlstate: five characters.
        message: the M field.
        position: index of the offending character in the statement, from 0; None where openGauss names none.
    """

    def __init__(self, sqlstate: str, message: str, *, position: int | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.position = position

    @property
    def is_syntax(self) -> bool:
        """True: found before anything of the query string runs, and also in a failed transaction."""
        return self.sqlstate == SYNTAX_ERROR


class UpstreamRefused(DoubleError):
    """An ErrorResponse to the double itself.

    Args:
        fields: the response's fields by their letter.
    """

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(fields.get("M", "no message"))
        self.fields = fields


class Disconnected(DoubleError):
    """The peer closed the connection, or broke the protocol's framing."""
