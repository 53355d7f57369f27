"""Sessions, which agent is a user's: the port, stores in the database, a file and memory, and a failover."""
