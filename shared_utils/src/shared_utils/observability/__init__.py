"""Logs without secrets or users' words, and health over HTTP."""
