"""Takes turns and returns outcomes: the passes and their parts, each with its own state."""

from letta_bridge.turn.intake.intake import Intake

__all__ = ["Intake"]
