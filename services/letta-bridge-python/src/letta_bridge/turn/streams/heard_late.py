"""An interrupt that came after the reply was complete: the agent has more in its history than its user heard."""

from __future__ import annotations

from typing import Protocol

from letta_bridge.request_queue.interrupts import Interrupted, InterruptRequest
from letta_bridge.request_queue.missed_turns import CutShort, DeliveryStatus, MissedTurn
from letta_bridge.turn.streams.events import Past
from letta_bridge.turn.streams.heard import heard_of
from shared_utils.contracts.messages import dump, json_object, now


class Corrections(Protocol):
    """The part of the request queue that is needed here."""

    async def events(self, user_id: str, task_id: str) -> list[bytes]:
        """See :class:`RequestQueue`."""
        ...

    async def correct(self, user_id: str, task_id: str, record: bytes) -> None:
        """See :class:`RequestQueue`."""
        ...


class HeardLate:
    """Leaves a note for the agent of a reply that its user did not hear to the end.

    An answer of memory-python is left as it is: the agent receives it with the next turn, and no note can refer to it.
    """

    def __init__(self, queue: Corrections) -> None:
        self._queue = queue

    async def __call__(self, request: InterruptRequest, result: Interrupted) -> None:
        """Note what was heard of a kept reply, if it was less than all of it. After an error it may be repeated."""
        await self._queue.correct(request.user_id, result.task_id, await self._record(request, result))

    async def _record(self, request: InterruptRequest, result: Interrupted) -> bytes:
        """The missed turn; empty where the agent need not be told."""
        reply = json_object(result.kept_reply or b"")
        text, agent_id = reply.get("response_text"), reply.get("agent_id")
        if reply.get("status") != "ok" or not isinstance(text, str) or not isinstance(agent_id, str):
            return b""
        past = Past.of(await self._queue.events(request.user_id, result.task_id))
        heard = heard_of(request.heard, past.sentences or [(0, text)], void_until=past.void_until)
        if heard is None or heard == text.rstrip():
            return b""
        record = MissedTurn(
            task_id=str(reply.get("idempotency_key") or result.task_id),
            content="",
            response_text=heard or None,
            timestamp=now(),
            fate=DeliveryStatus.STORED,
            agent_id=agent_id,
            taken_at=float(reply["taken_at"]) if isinstance(reply.get("taken_at"), int | float) else None,
            cut_short=CutShort.HEARD,
        )
        return dump(record)
