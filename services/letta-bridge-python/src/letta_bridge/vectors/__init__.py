"""Vectors of turns and of agents' archival memory, synchronised by a worker outside the reply path.

`journal_turns.py` reads turns, `passage_factory.py` makes passages of them, `embedding.py` embeds and stores,
`turn_sync.py` and `agent_sync.py` decide what to synchronise, `worker.py` runs them; `build.py` builds the parts.
"""
