"""Metrics and traces of the bridge, attached to its parts in one place."""
