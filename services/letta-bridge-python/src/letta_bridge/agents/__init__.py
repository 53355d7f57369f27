"""Whose agent is which: sessions, the agents of users, their tags, and what a user chose."""
