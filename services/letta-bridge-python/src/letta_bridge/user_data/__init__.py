"""Everything that is kept of one user, wherever it lies: told, taken along, and erased.

Each place is a :class:`~letta_bridge.user_data.port.UserDataStore`; `places.py` lists them in the order of erasing.
"""
