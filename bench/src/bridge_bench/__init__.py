"""Measures the bridge against the job queues one would pick instead, and against what the machine can do."""
