"""The session file: its tables, and whether it can be written."""
