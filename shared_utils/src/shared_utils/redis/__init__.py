"""Redis: its address, connections of every kind, scripts, and why it is of no use where it is not."""
