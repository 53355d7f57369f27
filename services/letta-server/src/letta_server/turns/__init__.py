"""Hooks that make a turn of Letta's cheaper, or possible with models of other providers.

Each module replaces one or a few functions of Letta's; see ``replacement``::

    cut_streams        a streamed answer that is cut off at the length limit is told from a complete one
    lean_reads         a run reads the rows it uses, without the rows related to them
    model_connections  connections to models are kept between calls
    model_transport    ... over aiohttp, whose cost does not grow with the calls in flight
    surplus            ... and closed if more than an answer came; for those through a proxy
    request_bodies     messages and tools are sent without the SDK's walk through them
    step_metrics       a step's metrics are written once and then updated, in order
    thoughts           a tool call takes the thoughts of its model along, as some providers demand
    tool_schemas       the JSON schemas of Letta's own tools are generated once
"""

from __future__ import annotations

from letta_server.turns import cut_streams, lean_reads, model_connections, step_metrics, thoughts, tool_schemas


def install() -> None:
    """Install all hooks. Imports parts of Letta.

    Raises:
        LettaServerError: a function is not the one its hook was written for.
    """
    for hook in (cut_streams, lean_reads, model_connections, step_metrics, thoughts, tool_schemas):
        hook.install()


async def close() -> None:
    """Close what the hooks keep open; called on the server's event loop after its last request."""
    await model_connections.close()


__all__ = ["close", "install"]
