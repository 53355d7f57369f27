"""Vectors of what was said and of what agents noted, kept in step with it by a worker off the reply path.

`journal_turns.py` reads turns, `passage_making.py` says what is remembered of them, `embedding.py` embeds and stores,
`turn_parts.py` and `agent_parts.py` decide what and when, `worker.py` runs them; `build.py` puts them together.
"""
