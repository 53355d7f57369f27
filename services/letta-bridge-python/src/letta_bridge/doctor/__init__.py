"""Looks at everything the bridge needs, one finding a thing: fine, worth a thought, or broken, and what to do."""

from letta_bridge.doctor.examination import examine
from letta_bridge.doctor.findings import Finding, Level

__all__ = ["Finding", "Level", "examine"]
