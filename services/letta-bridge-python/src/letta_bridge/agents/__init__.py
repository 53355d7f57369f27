"""Assigns agents to users: sessions, agents and their tags, and users' choices about permanent memory."""
