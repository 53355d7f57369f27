"""Checkpoints of graphs: the port, stores in the database, a file and memory, and a failover."""
