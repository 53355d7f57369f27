"""The baselines: workers without any guarantees."""
