"""Hooks that make a turn of Letta's cheaper.

Each module replaces one or a few functions of Letta's; see ``replacement``::

step_metrics      a step's metrics are written once and then updated, in order
"""

from __future__ import annotations

from letta_server.turns import step_metrics


def install() -> None:
    """Install all hooks. Imports parts of Letta.

    Raises:
        LettaServerError: a function is not the one its hook was written for.
    """
    step_metrics.install()


__all__ = ["install"]
