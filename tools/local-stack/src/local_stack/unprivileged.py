"""Starts a program as another user: PostgreSQL refuses to run as root.

Usage: python -I -S unprivileged.py UID GID PATH PROGRAM [ARGUMENT...]

Where that user cannot enter PATH or run PROGRAM (root's home is closed to others, so is a temporary directory), the
program keeps one capability of root's, CAP_DAC_OVERRIDE. The alternative would be to open the directories above it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import c_int, c_uint32

_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2


class _Header(ctypes.Structure):
    _fields_ = (("version", c_uint32), ("pid", c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", c_uint32), ("permitted", c_uint32), ("inheritable", c_uint32))


def _keep_file_access(libc: ctypes.CDLL) -> bool:
    sets = (_Sets * 2)()
    bit = 1 << _CAP_DAC_OVERRIDE
    sets[0] = _Sets(bit, bit, bit)
    header = _Header(_CAPABILITY_VERSION_3, 0)
    if libc.capset(ctypes.byref(header), ctypes.byref(sets)) != 0:
        return False
    return bool(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0) == 0)


def main() -> None:
    uid, gid, path, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None:
        libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    reachable = os.access(path, os.R_OK | os.X_OK) and os.access(command[0], os.X_OK)
    if not reachable and (libc is None or not _keep_file_access(libc)):
        sys.exit(
            f"PostgreSQL must not run as root, and user {uid} cannot reach {path} and {command[0]}; "
            "run the stack as a normal user, or put checkout and data where everybody may enter."
        )
    # The command is the one this package built; there is no shell.
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
