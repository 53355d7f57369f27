"""The bridge's HTTP endpoints."""
