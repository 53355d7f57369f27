"""The releases of openGauss that the double can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MODES = ("A", "B", "C", "PG")


@dataclass(frozen=True)
class Profile:
    """One release.

    Attributes:
        name: what `--profile` takes, and what the fact tables' `rejected` lists.
        release: `opengauss_version()`.
        build: the start of the commit it was built from; known of 6.0.0 and 7.0.0-RC1, a filler in the others.
        built: when; known of 6.0.0.
        datavec: the vector type and its indexes are built in.
        reported: settings that only this generation reports.
    """

    name: str
    release: str
    build: str
    built: str
    datavec: bool = False
    reported: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """`version()`; there is no "PostgreSQL" in it."""
        return (
            f"(openGauss {self.release} build {self.build}) compiled at {self.built} commit 0 last mr   "
            "on x86_64-unknown-linux-gnu, compiled by g++ (GCC) 10.3.0, 64-bit"
        )

    @property
    def modes(self) -> tuple[str, ...]:
        """What DBCOMPATIBILITY takes."""
        return (*MODES, "D") if self.name == "7.0" else MODES

    def rejects(self, fact: dict[str, Any]) -> bool:
        """Whether a row of a fact table is refused in this release."""
        return self.name in fact.get("rejected", [self.name])


_SINCE_6 = ("character_set_connection", "collation_connection", "disable_keyword_options", "enable_record_nettime")

PROFILES = {
    profile.name: profile
    for profile in (
        Profile("5.0", "5.0.0", "a07d57c3", "2023-03-29 03:07:56"),
        Profile("6.0", "6.0.0", "d1f02e70", "2024-10-11 10:39:30", reported=_SINCE_6),
        Profile("6.0.2", "6.0.2", "d1f02e72", "2025-04-21 10:39:30", datavec=True, reported=_SINCE_6),
        Profile("7.0", "7.0.0-RC1", "3fb58c89", "2025-03-31 15:54:28", datavec=True, reported=_SINCE_6),
    )
}

# What the server reports at login besides the settings that PostgreSQL reports by the same name. The names are
# openGauss's; of the values only server_version has been seen.
REPORTED = {
    "server_version": "9.2.4",
    "connection_info": "",
    "session_respool": "invalid_pool",
    "behavior_compat_options": "",
    "b_format_behavior_compat_options": "",
    "application_type": "not_perfect_sharding_type",
    "uppercase_attribute_name": "off",
}
# Of what PostgreSQL reports, openGauss reports these.
SHARED_REPORTS = frozenset(
    {
        "server_encoding",
        "client_encoding",
        "DateStyle",
        "TimeZone",
        "IntervalStyle",
        "integer_datetimes",
        "standard_conforming_strings",
        "application_name",
        "session_authorization",
    }
)
