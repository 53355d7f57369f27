"""Breaks the stack on purpose and checks the bridge's promises from outside."""
