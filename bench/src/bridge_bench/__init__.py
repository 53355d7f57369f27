"""Measures the bridge against alternative job queues, and against the limits of the machine."""
