"""A double of Letta with the measured behaviour of the real one, fast, and with faults on demand.

It keeps agents, histories and runs; stores a turn step by step and only at a step's end; continues a turn whose client
has left; lists a turn's run only a moment after its request, with the request's settings; marks runs cancelled without
stopping their turns; stores equal otids twice; lists an agent before it is complete; and leaves the run of a turn
behind, active for ever, when it is killed. Through the bridge's HTTP adapter it passes the same contract suite as the
real server. Faults are set with ``POST /control``.

``process.LettaDouble`` runs it as a process; ``server.Server`` is its web application, for tests in one process.
"""
