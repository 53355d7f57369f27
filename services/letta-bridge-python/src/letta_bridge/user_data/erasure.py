"""Erasing a user: every place in turn, with a row in the audit around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from letta_bridge.user_data.files import write_json
from letta_bridge.user_data.trace import Counts, Trace
from shared_utils.persistence.erasures import ErasureLog
from shared_utils.persistence.sessions import utc_now

_PASSES: Final = 3
"""A bridge that was just writing something of the user down leaves work for another pass."""


@dataclass(frozen=True, slots=True)
class UserData:
    """One installation's places, in the order they are erased.

    A place that fails stops the erasure there; run again, it goes on with what is left, under the same audit row.
    """

    traces: Sequence[Trace]
    audit: ErasureLog

    async def count(self, user_id: str) -> Counts:
        """How much there is of this user, everywhere."""
        counts: dict[str, int] = {}
        for trace in self.traces:
            counts |= await trace.count(user_id)
        return counts

    async def export(self, user_id: str, folder: Path) -> Counts:
        """Write all of it below ``folder``, with ``manifest.json`` last: without that it is not complete."""
        counts: dict[str, int] = {}
        for trace in self.traces:
            counts |= await trace.export(user_id, folder)
        write_json(folder / "manifest.json", {"user_id": user_id, "exported_at": utc_now(), "counts": counts})
        return counts

    async def erase(self, user_id: str) -> Counts:
        """Remove all of it; how much went, in this run and in earlier ones that broke off.

        Raises:
            ErasureBusy: a turn of this user does not end.
            ServiceError: a place cannot be reached now.
        """
        erasure = await self.audit.begin(user_id)
        for _ in range(_PASSES):
            for trace in self.traces:
                for name, gone in (await trace.erase(user_id)).items():
                    erasure.counts[name] = erasure.counts.get(name, 0) + gone
                await self.audit.note(erasure)
            if not any((await self.count(user_id)).values()):
                break
        await self.audit.note(erasure, finished=True)
        return erasure.counts
