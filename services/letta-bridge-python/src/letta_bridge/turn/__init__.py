"""One turn, from the queue to its settlement: taken, routed, delivered to Letta or memory-python, and settled."""
