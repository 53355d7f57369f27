"""What is broken: one function a fault, one module a part of the stack."""
