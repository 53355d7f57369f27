"""Passages of a Letta's own database, into the passage store. The source is only read."""
