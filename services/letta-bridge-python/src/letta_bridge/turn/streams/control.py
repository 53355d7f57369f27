"""Takes interrupts from the control list, and hears of those that other bridges took."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from letta_bridge import fail_points
from letta_bridge.request_queue.interrupts import Interrupted, InterruptOutcome, InterruptRequest, stored_request
from letta_bridge.turn.channel_listener import ChannelListener, Subscription
from letta_bridge.turn.recorder import Recorder
from shared_utils.errors import MalformedMessage
from shared_utils.observability import logs
from shared_utils.observability.outage import OncePerOutage
from shared_utils.redis.connection import CONNECTION_ERRORS, RedisClient, close
from shared_utils.redis.failures import explain
from shared_utils.task_end import end_and_log

_log = logs.get("letta_bridge.streams")
_WAIT_SECONDS: Final = 5
"""How long one wait for a message lasts."""
_FAILURES: Final[tuple[type[Exception], ...]] = (*CONNECTION_ERRORS, ResponseError)
_PAUSE_SECONDS: Final = 1.0
"""After a command that failed."""


class Control:
    """The control list of one queue, read by each of its bridges.

    A message stays in the list until its interrupt is noted, so that a killed bridge loses none. Several bridges may
    therefore see the same one; the second finds that nothing is left to do.

    Args:
        client: for the blocking wait, used by nothing else; it is closed here.
        listener: for the channel on which bridges tell each other; it is closed here.
        key: the control list.
        channel: the channel.
        interrupt: notes an interrupt.
        break_off: breaks off a turn by its receipt, if it runs here.
        over: is told of an interrupt whose task had ended.
        recorder: observes interrupts.
    """

    def __init__(
        self,
        client: RedisClient,
        listener: RedisClient,
        *,
        key: str,
        channel: str,
        interrupt: Callable[[InterruptRequest, bytes | None], Awaitable[Interrupted]],
        break_off: Callable[[str, InterruptRequest], None],
        over: Callable[[InterruptRequest, Interrupted], Awaitable[None]],
        recorder: Recorder,
    ) -> None:
        self._client = client
        self._listener = ChannelListener(listener, key, channel)
        self._key = key
        self._channel = channel
        self._interrupt = interrupt
        self._is_cluster = isinstance(client, RedisCluster)
        self._break_off = break_off
        self._over = over
        self._recorder = recorder
        self._outage = OncePerOutage()
        self._deaf = OncePerOutage()
        self._barging: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take and hear interrupts while the block runs."""
        taking = asyncio.create_task(self._take(), name="control-list")
        hearing = asyncio.create_task(self._hear(), name="control-channel")
        try:
            yield
        finally:
            await end_and_log(taking, hearing, *self._barging)
            await self._listener.close()
            with contextlib.suppress(*CONNECTION_ERRORS):
                await close(self._client)

    def barge_in(self, user_id: str, receipt: str) -> None:
        """A user writes while being answered in the turn of this receipt: break the answer off, if it is streamed."""
        request = InterruptRequest(type="interrupt", user_id=user_id, hand_out=receipt)
        task = asyncio.create_task(self._interrupted_by_message(request))
        self._barging.add(task)
        task.add_done_callback(self._barging.discard)

    async def _interrupted_by_message(self, request: InterruptRequest) -> None:
        try:
            await self._interrupted(request)
        except _FAILURES as error:  # the message waits for the answer then, as it does without this setting
            _log.warning("barge_in_failed", user_id=request.user_id, error=explain(error))

    async def _take(self) -> None:
        while True:
            try:
                message = await self._oldest()
                if message is not None and await self._handle(message):
                    await self._client.lrem(self._key, -1, cast("str", message))
                self._outage.worked(lambda: _log.info("control_list_read_again"))
            except _FAILURES as error:
                self._outage.failed(explain(error), lambda reason: _log.warning("control_list_unread", error=reason))
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _oldest(self) -> bytes | None:
        # It moves to its own place, so that it stays in the list while this waits for it.
        moved: Any = await self._client.blmove(self._key, self._key, _WAIT_SECONDS, "RIGHT", "RIGHT")
        return cast("bytes | None", moved)

    async def _handle(self, message: bytes) -> bool:
        """Whether the message is still to be removed from the list."""
        try:
            request = InterruptRequest.read(message)
            await self._interrupted(request, message)
            return bool(request.task_id) or self._is_cluster
        except MalformedMessage as error:
            _log.warning("control_message_unreadable", error=str(error))
        except _FAILURES:
            raise
        except Exception:  # noqa: BLE001  # logged with its trace
            # It would fail again, and hold up the messages behind it.
            _log.exception("control_message_failed")
        return True

    async def _interrupted(self, request: InterruptRequest, message: bytes | None = None) -> None:
        result = await self._interrupt(request, message)
        fail_points.reach("noted")
        if result.outcome is InterruptOutcome.TAKEN:
            return
        self._recorder.interrupt_handled(result.outcome)
        _log.info("interrupt", outcome=result.outcome, user_id=request.user_id, task_id=result.task_id)
        if result.outcome is InterruptOutcome.INTERRUPTED:
            self._break_off(result.receipt, request)
        elif result.outcome is InterruptOutcome.OVER:
            await self._over(request, result)

    async def _hear(self) -> None:
        subscription = await self._subscribed()
        while True:
            receipt, _, request = (await subscription.messages.get()).decode(errors="replace").partition("\n")
            self._break_off(receipt, stored_request(request.encode()))

    async def _subscribed(self) -> Subscription:
        """As soon as Redis allows it; until then turns learn of other bridges' interrupts with their next event."""
        while True:
            try:
                return await self._listener.subscribe(self._channel, "control")
            except _FAILURES as error:
                self._deaf.failed(explain(error), lambda reason: _log.warning("interrupts_unheard", error=reason))
                await asyncio.sleep(_PAUSE_SECONDS)
