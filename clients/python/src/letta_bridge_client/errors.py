"""What a call can raise beside ``ValueError`` and ``TypeError``, which mean a wrong argument."""

from __future__ import annotations

from letta_bridge_client.reply import Reply


class BridgeError(Exception):
    """The call did not get a reply.

    Attributes:
        retryable: whether the same call, with the same task id, may be made again.
    """

    retryable: bool = False


class NoReply(BridgeError, TimeoutError):
    """No reply came in time; the task waits or runs, and its reply is kept when it comes.

    Attributes:
        task_id: the task's id, with which ``resume`` waits on.
    """

    retryable = True

    def __init__(self, task_id: str, seconds: float) -> None:
        super().__init__(
            f"no reply to task {task_id} within {seconds:g} s; it still waits or runs, resume() waits on for its reply"
        )
        self.task_id = task_id


class RedisUnavailable(BridgeError):
    """Redis did not answer in time, or refuses this client; a task may or may not have been pushed.

    Attributes:
        task_id: with which the call may be repeated: if the task was pushed, it is not answered twice. Empty where the
            call had none.
    """

    def __init__(self, sentence: str, task_id: str = "", *, retryable: bool = True) -> None:
        super().__init__(sentence)
        self.task_id = task_id
        self.retryable = retryable


class TaskFailed(BridgeError):
    """The bridge answered with an error.

    Attributes:
        reply: the error reply; ``code`` is stable, ``text`` a sentence for people with the remedy.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"{reply.text} ({reply.code})")
        self.reply = reply
        self.retryable = reply.retryable

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.reply.task_id

    @property
    def code(self) -> str:
        """Which error it is."""
        return self.reply.code


class RepliesMissed(BridgeError):
    """The stream no longer holds the reply at the cursor, so later ones may have been dropped, too.

    Each reply is still kept under its task's id for a while: ``result`` reads it.
    """

    def __init__(self, cursor: str) -> None:
        super().__init__(
            f"the reply at the cursor {cursor} is not in the stream any more, so others after it may be missing; "
            "read open tasks with result(), and start again without a cursor"
        )
        self.cursor = cursor
