"""An openGauss for tests: a wire-level proxy in front of a real PostgreSQL."""

from __future__ import annotations

from opengauss_double.auth import Account, Accounts, Stored
from opengauss_double.errors import DoubleError, Refusal, UpstreamRefused
from opengauss_double.observation import Observer
from opengauss_double.profiles import PROFILES, Profile
from opengauss_double.server import Double, ThreadedDouble

__all__ = [
    "PROFILES",
    "Account",
    "Accounts",
    "Double",
    "DoubleError",
    "Observer",
    "Profile",
    "Refusal",
    "Stored",
    "ThreadedDouble",
    "UpstreamRefused",
]
