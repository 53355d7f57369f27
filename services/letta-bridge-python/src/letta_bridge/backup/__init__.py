"""Backup and restore of one installation: tables or session file, complete agents, settings, in one directory.

`manifest.py` defines what a backup holds. `backup.py` makes one and `restore.py` restores and compares one, with
`state.py` for databases and the session file and `agents.py` for agents.
"""
