"""Rows as pydantic models: tables, conditions on them, and repositories in the database and in memory."""
