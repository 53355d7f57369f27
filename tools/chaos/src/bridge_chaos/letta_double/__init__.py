"""A double of Letta with the measured behaviour of the real one, fast, and with faults on demand.

It keeps agents, histories and runs; stores a turn step by step and only at a step's end; goes on with a turn whose
client has left; shows a turn's run only a moment after its request, with what was asked for; marks runs cancelled
without stopping their turns; stores equal otids twice; lists an agent before it is whole; and leaves the run of a turn
behind, active for ever, when it is killed. Faults are dialled in with ``POST /control``.
"""

from bridge_chaos.letta_double.process import LettaDouble

__all__ = ["LettaDouble"]
