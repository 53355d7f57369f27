"""Errors that prevent a start of Letta.

::

    LettaServerError        `exit_code`; the message is one sentence for the operator
    ├── SettingsRefused     2: the environment or the command line is wrong or half set
    ├── NotReachable        1: the database or Redis did not come up in time
    ├── DatabaseUnfit       1: wrong product, version, mode, rights, no vectors, no connections left
    └── SchemaRefused       1: the database holds something that is not Letta 0.16.8's schema
"""

from __future__ import annotations

from typing import ClassVar


class LettaServerError(Exception):
    exit_code: ClassVar[int] = 1


class SettingsRefused(LettaServerError):
    exit_code = 2


class NotReachable(LettaServerError):
    pass


class DatabaseUnfit(LettaServerError):
    pass


class SchemaRefused(LettaServerError):
    pass
