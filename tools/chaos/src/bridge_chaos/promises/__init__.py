"""What must hold at the end of a run, seen from outside and counted."""

from bridge_chaos.promises.judge import judge
from bridge_chaos.promises.verdict import ALWAYS, PROMISES, Finding, Verdict

__all__ = ["ALWAYS", "PROMISES", "Finding", "Verdict", "judge"]
