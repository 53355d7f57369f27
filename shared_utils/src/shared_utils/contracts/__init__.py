"""What one service writes and another reads: messages, whose they are, their limits, and shared names in Redis."""
