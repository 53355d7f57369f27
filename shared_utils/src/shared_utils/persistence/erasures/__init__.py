"""Erased users: the audit of erasures, and erasures followed in the session file."""
