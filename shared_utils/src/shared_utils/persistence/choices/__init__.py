"""Users' choices about permanent memory: the port, and stores in the database, the session file and memory."""
