"""A deterministic OpenAI-compatible model for demos and tests."""
