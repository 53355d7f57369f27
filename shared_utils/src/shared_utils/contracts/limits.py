"""Limits of a task: one definition for every service that reads, hands over or answers tasks.

Each limit is a setting with an upper bound. A service refuses tasks beyond its setting. A task that another service has
checked and handed over is accepted up to the upper bound, so that services with different settings do not disagree
about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared_utils.config.settings import Section, setting

MAX_PAYLOAD_BYTES: Final = 64 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_ID_LENGTH: Final = 1024
"""Characters."""
MAX_QUEUE_NAME_LENGTH: Final = 256
"""Characters of a list's name; the keys made from it are a little longer."""
MAX_CHANNEL_LENGTH: Final = 512
"""Characters of a configured channel, or of the prefix of one."""
MAX_ANSWER_TTL: Final = 604_800
"""Seconds that memory-python keeps an answer for the bridge: a week."""
MAX_REPLY_TTL: Final = 366 * 86_400
"""Seconds a reply is kept by task id: a year."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a payload."""

    payload_bytes: int = 262_144
    depth: int = 16
    id_length: int = 256
    """Characters of a task id or user id."""


BOUNDS: Final = Limits(MAX_PAYLOAD_BYTES, MAX_DEPTH, MAX_ID_LENGTH)
"""Upper bounds of the settings."""


class TaskLimits(Section):
    """The settings; they lie in the section ``queue``, which the bridge and memory-python both read."""

    max_payload_bytes: int = setting(262_144, doc="maximum size of a task", ge=1024, le=MAX_PAYLOAD_BYTES)
    max_depth: int = setting(16, doc="maximum nesting of a task", ge=2, le=MAX_DEPTH)
    max_id_length: int = setting(256, doc="maximum characters of a task id or user id", ge=16, le=MAX_ID_LENGTH)

    @property
    def limits(self) -> Limits:
        """The limits of one task."""
        return Limits(payload_bytes=self.max_payload_bytes, depth=self.max_depth, id_length=self.max_id_length)
