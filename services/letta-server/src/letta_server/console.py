"""Output for the operator: sentences on stderr, results on stdout."""

from __future__ import annotations

import sys


def say(sentence: str) -> None:
    sys.stderr.write(f"letta-server: {sentence}\n")
    sys.stderr.flush()


def show(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()  # in order with the sentences, also where both go into one file
