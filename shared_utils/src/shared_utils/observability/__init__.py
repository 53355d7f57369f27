"""Logs without secrets and message texts, and health over HTTP."""
