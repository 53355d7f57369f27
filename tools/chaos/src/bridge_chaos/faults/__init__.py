"""The faults: one function for each fault, one module for each part of the stack."""
