"""Metrics and traces of the bridge's work, put around its parts in one place."""
