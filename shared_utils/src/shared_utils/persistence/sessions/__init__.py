"""Sessions, which assign agents to users: the port, stores in the database, a file and memory, and a failover."""
