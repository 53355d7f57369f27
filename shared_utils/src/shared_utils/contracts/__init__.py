"""Contracts between services: messages, their owners and limits, and shared names in Redis."""
