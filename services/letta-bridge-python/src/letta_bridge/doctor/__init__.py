"""Checks every dependency of the bridge; each finding is OK, WARN or FAIL, with a remedy."""

from letta_bridge.doctor.examination import examine
from letta_bridge.doctor.findings import Finding, Level

__all__ = ["Finding", "Level", "examine"]
