"""Taking turns and giving back outcomes: the passes and their parts, each with a state of its own."""

from letta_bridge.turn.intake.intake import Intake

__all__ = ["Intake"]
