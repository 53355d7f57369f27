"""The files of the user's own folder below the upload directory."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final

from letta_bridge.turn.uploads import files_of, remove_files, user_folder
from letta_bridge.user_data.port import Counts
from shared_utils.private_files import replacing


class UploadUserData:
    """See :class:`UserDataStore`. Files outside the users' folders belong to no user."""

    name: Final = "the upload directory"

    def __init__(self, root: Path) -> None:
        self._root = root

    async def count(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`."""
        return {"uploads": len(await asyncio.to_thread(files_of, self._root / user_folder(user_id)))}

    async def export(self, user_id: str, folder: Path) -> Counts:
        """See :class:`UserDataStore`. The files as they are, below ``uploads``; links are left out."""
        source = self._root / user_folder(user_id)
        files = await asyncio.to_thread(files_of, source)
        for file in files:
            target = folder / "uploads" / file.relative_to(source)
            await asyncio.to_thread(_copy, file, target)
        return {"uploads": len(files)}

    async def erase(self, user_id: str) -> Counts:
        """See :class:`UserDataStore`.

        Raises:
            UploadsKept: this process may not remove them.
        """
        return {"uploads": await asyncio.to_thread(remove_files, self._root / user_folder(user_id))}


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reading, replacing(target) as writing:
        shutil.copyfileobj(reading, writing)
