"""Counts, exports and erases all data of one user, in every store.

Each place is a :class:`~letta_bridge.user_data.port.UserDataStore`; `places.py` lists them in the order of erasing.
"""
