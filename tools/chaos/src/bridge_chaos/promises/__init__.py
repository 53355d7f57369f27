"""The promises that must hold at the end of a run, checked from outside."""

from bridge_chaos.promises.judge import judge
from bridge_chaos.promises.verdict import ALWAYS, PROMISES, Finding, Verdict

__all__ = ["ALWAYS", "PROMISES", "Finding", "Verdict", "judge"]
