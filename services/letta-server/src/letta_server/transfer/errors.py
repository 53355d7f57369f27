"""Errors that prevent a move.

::

    LettaServerError
    ├── MoveRefused        1: one of the two databases is not as a move needs it
    ├── MoveInterrupted    1: it stopped half-way, and the same command goes on from there
    └── ContentDiffers     1: the two databases do not hold the same
"""

from __future__ import annotations

from letta_server.errors import LettaServerError


class MoveRefused(LettaServerError):
    pass


class MoveInterrupted(LettaServerError):
    pass


class ContentDiffers(LettaServerError):
    pass
