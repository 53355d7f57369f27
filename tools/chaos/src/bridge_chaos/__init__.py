"""Injects faults into the stack, and checks the bridge's promises from outside."""
