"""Streamed replies: the events of a turn for who listens while the agent speaks, and interrupts."""
