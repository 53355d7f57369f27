"""Fakes that pass the same contract suites as the real parts, for tests of programs that are built on these ports."""
